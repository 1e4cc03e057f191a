"""`mom generate`: continue a prompt of text, a picture or sound in any modality of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ..generate import Generator

__all__ = ["HELP", "configure", "run"]

HELP = (
    "Generate from a trained run: text to a picture or to speech, pictures and speech to text, "
    "or, without --to, whatever the model goes on with."
)

_SUFFIX = {"image": ".png", "speech": ".wav", "text": ".txt"}


def configure(parser: Any) -> None:
    parser.add_argument("run", help="run folder that mom train wrote")
    parser.add_argument("--text", default=None, type=str, help="prompt: words, such as a caption")
    parser.add_argument("--image", default=None, type=str, help="prompt: a picture file")
    parser.add_argument("--speech", default=None, type=str, help="prompt: a sound file")
    parser.add_argument(
        "--to",
        default=None,
        type=str,
        help="modality to generate: text, image or speech, as the run has them; without it the "
        "document goes on until the model ends it, opening modalities by itself",
    )
    parser.add_argument(
        "--out",
        default=None,
        type=str,
        help="file to write (.png, .wav, .txt); several pictures become one grid, several sounds "
        "numbered files; without --to a folder. Text goes to standard output by default",
    )
    parser.add_argument("--count", default=1, type=int, help="number of samples")
    parser.add_argument(
        "--seed", default=0, type=int, help="of the first sample; sample i has seed + i"
    )
    parser.add_argument("--max_tokens", default=None, type=int | None, help="most new tokens")
    for name, kind, text in (
        ("temperature", float, "0 takes the most likely token; default 1, for text 0"),
        ("top_k", int, "sample from the k most likely tokens"),
        ("top_p", float, "sample from the most likely tokens that make up this probability"),
        ("min_p", float, "leave out tokens below this fraction of the most likely one's"),
        ("repetition_penalty", float, "above 1: tokens that are there already become less likely"),
        ("guidance", float, "above 1: lean on the prompt more than the model does by itself"),
        ("steps", int, "denoising steps of continuous modalities"),
        ("sampler", str, "of continuous modalities: ddim, ddpm or flow"),
    ):
        parser.add_argument(f"--{name}", default=None, type=kind | None, help=text)
    parser.add_argument(
        "--weights",
        default=None,
        type=Literal["float32", "bfloat16", "int8"] | None,
        help="format of the weights while decoding, natively on the CPU; default: the model's own",
    )
    parser.add_argument(
        "--stream", action="store_true", help="print text while it is made (one sample, --to text)"
    )


def run(args: Any) -> int:
    prompt = _prompt(args)
    if args.count < 1:
        raise ValueError(f"--count is {args.count}; give at least 1")
    from ..generate import Generator

    generator = Generator.from_run(args.run, weights=args.weights)
    if args.to is not None:
        generator.layout.index(args.to)
    options = _options(args)
    if args.stream:
        return _stream(generator, prompt, args, options)
    made = generator.complete([prompt] * args.count, to=args.to, seed=args.seed, **options)
    if args.to is None:
        return _write_documents(made, Path(args.out or "generated"))
    return _write(args.to, [document[0].content for document in made], args.out)


def _prompt(args: Any) -> list[tuple[str, Any]]:
    """The prompt's segments: text, picture, sound, in this order."""
    from ..generate.media import read_image, read_sound

    prompt: list[tuple[str, Any]] = []
    if args.text is not None:
        prompt.append(("text", args.text))
    if args.image is not None:
        prompt.append(("image", read_image(args.image)))
    if args.speech is not None:
        prompt.append(("speech", read_sound(args.speech)))
    if not prompt:
        raise ValueError("the prompt is empty; give --text, --image or --speech")
    return prompt


def _options(args: Any) -> dict[str, Any]:
    names = (
        *("temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
        *("guidance", "steps", "sampler", "max_tokens"),
    )
    options = {n: getattr(args, n) for n in names if getattr(args, n) is not None}
    if args.to == "text":
        options.setdefault("temperature", 0.0)
        options.setdefault("max_tokens", 100)
    return options


def _stream(generator: Generator, prompt: Any, args: Any, options: dict[str, Any]) -> int:
    if args.to != "text" or args.count != 1 or args.out:
        raise ValueError("--stream prints one sample of --to text; leave out --count and --out")
    special, ids, shown = generator.layout.special, [], 0
    for _, token in generator.stream(prompt, to="text", seed=args.seed, **options):
        ids += [] if token in special else [token]
        text = generator.tokenizers.text.decode(ids)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # a character may span two tokens
            print(text[shown:], end="", flush=True)
            shown = len(text)
    print()
    return 0


def _write(name: str, samples: Sequence[Any], out: str | None) -> int:
    """One modality's samples to the file that --out names."""
    from ..generate.media import grid, write_image, write_sound

    if name == "text":
        text = "\n".join(sample.strip() for sample in samples)
        if out is None:
            print(text)
            return 0
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(text + "\n", encoding="utf-8")
        return _wrote([Path(out)])
    path = Path(out or f"generated{_SUFFIX.get(name, '')}")
    if isinstance(samples[0], tuple):
        paths = (
            [path]
            if len(samples) == 1
            else [path.with_stem(f"{path.stem}-{i}") for i in range(len(samples))]
        )
        for sample, file in zip(samples, paths, strict=True):
            write_sound(file, sample)
        return _wrote(paths)
    write_image(path, samples[0] if len(samples) == 1 else grid(samples))
    return _wrote([path])


def _write_documents(documents: Sequence[Any], out: Path) -> int:
    """Interleaved documents: text to standard output, pictures and sound into a folder."""
    from ..generate.media import write_image, write_sound

    if out.suffix or out.is_file():
        raise ValueError(f"--out {out} is a file; without --to, give a folder")
    for i, document in enumerate(documents):
        if len(documents) > 1:
            print(f"--- {i}")
        for j, (name, content) in enumerate(document):
            path = out / f"{i}-{j}-{name}{_SUFFIX.get(name, '')}"
            if name == "text":
                print(content.strip())
            elif isinstance(content, tuple):
                write_sound(path, content)
                print(f"[{path}]")
            else:
                write_image(path, content)
                print(f"[{path}]")
    return 0


def _wrote(paths: Sequence[Path]) -> int:
    print("wrote " + ", ".join(map(str, paths)), file=sys.stderr)
    return 0
