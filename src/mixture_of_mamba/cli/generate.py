"""`mom generate`: continue a prompt of text, a picture or sound in any modality of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ops.decode_step import FORMATS

if TYPE_CHECKING:
    from ..generation import Event, Generator
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["HELP", "configure", "run", "without_effect"]

HELP = (
    "Generate from a trained run: text to a picture or to speech, pictures and speech to text, "
    "or, without --to, whatever the model goes on with."
)

_FOR_TOKENS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_FILTERS = ("top_k", "top_p", "min_p")
_FOR_VECTORS = ("steps", "sampler")
OPTIONS = (*_FOR_TOKENS, *_FOR_VECTORS, "guidance", "max_tokens")
"""Options that decide how is sampled."""


def configure(parser: Any) -> None:
    parser.add_argument("run", help="run folder that mom train wrote")
    parser.add_argument("--text", default=None, type=str, help="prompt: words, such as a caption")
    parser.add_argument("--image", default=None, type=str, help="prompt: a picture file")
    parser.add_argument("--speech", default=None, type=str, help="prompt: a sound file")
    parser.add_argument(
        "--item",
        action="append",
        default=None,
        type=str,
        metavar="NAME=FILE",
        help="prompt: a file of any other modality that the run has, by the modality's name",
    )
    parser.add_argument(
        "--to",
        default=None,
        type=str,
        help="modality to generate: text, image, speech, ..., as the run has them; without it the "
        "document goes on until the model ends it, opening modalities by itself",
    )
    parser.add_argument(
        "--out",
        default=None,
        type=str,
        help="file to write (.png, .wav, .txt); several pictures become one grid, several sounds "
        "numbered files; without --to a folder. By default text goes to standard output, and the "
        "rest to generated.png, generated.wav or, without --to, the folder generated/ below the "
        "present one",
    )
    parser.add_argument("--count", default=1, type=int, help="number of samples")
    parser.add_argument(
        "--seed",
        default=None,
        type=int | None,
        help="of the first sample, default 0; sample i has seed + i",
    )
    parser.add_argument(
        "--max_tokens",
        default=None,
        type=int | None,
        help="most new tokens; default 400, for --to text 100. Images have a length of their own",
    )
    for name, kind, text in (
        (
            "temperature",
            float,
            "0 takes the most likely token; default 1, for one sample of --to text 0",
        ),
        ("top_k", int, "sample from the k most likely tokens"),
        ("top_p", float, "sample from the most likely tokens that make up this probability"),
        ("min_p", float, "leave out tokens below this fraction of the most likely one's"),
        ("repetition_penalty", float, "above 1: tokens that are there already become less likely"),
        (
            "guidance",
            float,
            "1 follows the prompt as the model does by itself, more leans on it, 0 forgets it; "
            "default 2 for continuous images, 1 for everything else",
        ),
        ("steps", int, "denoising steps of continuous images; default 50"),
        (
            "sampler",
            str,
            "of continuous images: auto (the default: flow where the model learnt flow matching, "
            "else ddim), ddim, ddpm or flow",
        ),
    ):
        parser.add_argument(f"--{name}", default=None, type=kind | None, help=text)
    parser.add_argument(
        "--weights",
        default=None,
        choices=[*FORMATS, "auto"],
        help="format of the weights while decoding, natively on the CPU; auto: bfloat16 where a "
        "measurement says that it is faster on this machine; default: the model's own",
    )
    parser.add_argument(
        "--stream", action="store_true", help="print text while it is made (one sample, --to text)"
    )


def run(args: Any) -> int:
    given = _given(args)
    if args.count < 1:
        raise ValueError(f"--count is {args.count}; give at least 1")
    from ..generation import Generator

    generator = Generator.from_run(args.run, weights=args.weights)
    tokenizers = generator.tokenizers
    if args.to is not None:
        tokenizers.index(args.to)
    prompt = [
        (name, value if name == "text" else tokenizers.codec(name).media.read(value))
        for name, value in given
    ]
    options = _options(args, tokenizers)
    set_options = [name for name in (*OPTIONS, "seed") if getattr(args, name) is not None]
    set_options += ["count"] if args.count > 1 else []
    greedy = options.get("temperature") == 0
    if line := without_effect(tokenizers, args.to, set_options, greedy=greedy):
        print(f"mom generate: without effect: {line}", file=sys.stderr)
    if args.stream:
        return _stream(generator, prompt, args, options)
    if args.to is None:
        return _continue_documents(generator, prompt, args, options)
    made = generator.complete([prompt] * args.count, to=args.to, seed=args.seed or 0, **options)
    return _write(tokenizers, args.to, [document[0].content for document in made], args.out)


def _given(args: Any) -> list[tuple[str, str]]:
    """The prompt as it was given, text first: (modality, the text or a file)."""
    pairs = [("text", args.text), ("image", args.image), ("speech", args.speech)]
    given = [(name, value) for name, value in pairs if value is not None]
    for item in args.item or []:
        name, equals, file = item.partition("=")
        if not (name and equals and file):
            raise ValueError(f"--item {item!r} names no modality and file; give NAME=FILE")
        given.append((name, file))
    if not given:
        raise ValueError("the prompt is empty; give --text, --image or --speech")
    return given


def without_effect(
    tokenizers: TokenizerSet, to: str | None, given: Sequence[str], *, greedy: bool = False
) -> str:
    """Which of the given options change nothing, and why; "" where all of them do something.

    Args:
        to: the modality that is generated; None: any.
        greedy: whether tokens are chosen at temperature 0.
    """
    kinds = set(tokenizers.kinds) if to is None else {tokenizers.kind(to)}
    reasons = []

    def useless(names: Sequence[str], why: str) -> None:
        if idle := [f"--{name}" for name in names if name in given]:
            reasons.append(f"{', '.join(idle)} ({why})")

    if "continuous" not in kinds:
        what = "this run has only tokens" if to is None else f"{to} is made of tokens here"
        useless(_FOR_VECTORS, f"{what}; for continuous images only")
        if to is None:
            useless(["guidance"], "it needs --to")
    if "discrete" not in kinds:
        useless(_FOR_TOKENS, f"{to} is denoised as a whole; for tokens only")
    elif greedy:
        what = "temperature is 0: the most likely token is taken"
        useless(_FILTERS, f"{what}; give --temperature 1")
        if "continuous" not in kinds:
            useless(["count", "seed"], f"{what}, the same in every sample; give --temperature 1")
    if to is not None and (length := tokenizers.fixed_length.get(to)) is not None:
        useless(["max_tokens"], f"every {to} has {length} tokens")
    return "; ".join(reasons)


def _options(args: Any, tokenizers: TokenizerSet) -> dict[str, Any]:
    options = {n: getattr(args, n) for n in OPTIONS if getattr(args, n) is not None}
    if args.max_tokens is not None and args.max_tokens < 1:
        raise ValueError(f"--max_tokens is {args.max_tokens}; give at least 1")
    if args.to in tokenizers.fixed_length:
        options.pop("max_tokens", None)
    if args.to == "text" and args.count == 1:  # of several, each should be another
        options.setdefault("temperature", 0.0)
    return options


def _stream(generator: Generator, prompt: Any, args: Any, options: dict[str, Any]) -> int:
    if args.to != "text" or args.count != 1 or args.out:
        raise ValueError("--stream prints one sample of --to text; leave out --count and --out")
    special, ids, shown = generator.tokenizers.special, [], 0
    for _, token in generator.stream(prompt, to="text", seed=args.seed or 0, **options):
        ids += [] if token in special else [token]
        text = generator.tokenizers.decode("text", ids)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # a character may span two tokens
            print(text[shown:], end="", flush=True)
            shown = len(text)
    print()
    return 0


def _write(tokenizers: TokenizerSet, name: str, samples: Sequence[Any], out: str | None) -> int:
    """One modality's samples to the file that --out names."""
    if name == "text" and out is None:
        print("\n".join(sample.strip() for sample in samples))
        return 0
    media = tokenizers.codec(name).media
    return _report_paths(media.write_all(out or f"generated{media.suffixes[0]}", samples))


def _continue_documents(
    generator: Generator, prompt: Any, args: Any, options: dict[str, Any]
) -> int:
    """Documents that the model goes on with; says which of them hold nothing, or end too soon."""
    from ..generation.segments import truncated

    out = Path(args.out or "generated")
    if out.suffix or out.is_file():
        raise ValueError(f"--out {out} is a file; without --to, give a folder")
    events: list[list[Event]] = [[] for _ in range(args.count)]
    for event in generator.events([prompt] * args.count, seed=args.seed or 0, **options):
        events[event.row].append(event)
    documents = generator.decode_segments(events)
    _write_documents(generator.tokenizers, documents, out)
    for i, (document, made) in enumerate(zip(documents, events, strict=True)):
        if broken := truncated(generator.tokenizers, made):
            name, length, needed = broken
            parts = f"{length} of its {needed} tokens" if needed else "nothing yet"
            print(
                f"sample {i}: the document was cut after {len(made)} new tokens; its last {name} "
                f"holds {parts} and is left out; give more --max_tokens",
                file=sys.stderr,
            )
        elif not document:
            print(
                f"sample {i}: the model ended the document at once, with nothing in it; say with "
                "--to what to generate, or give another --seed",
                file=sys.stderr,
            )
    return 0


def _write_documents(tokenizers: TokenizerSet, documents: Sequence[Any], out: Path) -> None:
    """Interleaved documents: text to standard output, everything else into a folder."""
    for i, document in enumerate(documents):
        if len(documents) > 1:
            print(f"--- {i}")
        for j, (name, content) in enumerate(document):
            if name == "text":
                print(content.strip())
                continue
            media = tokenizers.codec(name).media
            path = out / f"{i}-{j}-{name}{media.suffixes[0]}"
            media.write(path, content)
            print(f"[{path}]")


def _report_paths(paths: Sequence[Path]) -> int:
    print("wrote " + ", ".join(map(str, paths)), file=sys.stderr)
    return 0
