"""`mom generate`: continue a prompt of items of any modality in any modality of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..generation.options import (
    DIFFUSION_OPTIONS,
    MAX_TEXT_TOKENS,
    MAX_TOKENS,
    SAMPLING_OPTIONS,
    TEXT_TEMPERATURE,
    TOKEN_GUIDANCE,
    DiffusionOptions,
    Sampling,
)
from .generated_files import continue_documents, stream_text, write_samples

if TYPE_CHECKING:
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["HELP", "configure", "run", "without_effect"]

HELP = (
    "Generate from a trained run: text to a picture or to speech, pictures and speech to text, any "
    "modality to any other that the run has, or, without --to, whatever the model goes on with."
)

#: Formats of the weights that native decoding takes; those of ops.decode_step.FORMATS.
FORMATS = ("float32", "bfloat16", "int8")
#: Prompts with a flag of their own, in the order that they have in the document.
PROMPTS = {
    "text": "prompt: words, such as a caption",
    "image": "prompt: a picture file",
    "speech": "prompt: a sound file",
}
_FILTERS = ("top_k", "top_p", "min_p")
#: Options of sampling: their types and help.
OPTIONS: dict[str, tuple[type, str]] = {
    "temperature": (
        float,
        f"0 takes the most likely token; default {Sampling.temperature:g}, for one sample of text "
        f"{TEXT_TEMPERATURE:g}",
    ),
    "top_k": (int, "sample from the k most likely tokens"),
    "top_p": (float, "sample from the most likely tokens that make up this probability"),
    "min_p": (float, "leave out tokens below this fraction of the most likely one's"),
    "repetition_penalty": (float, "above 1: tokens that are there already become less likely"),
    "guidance": (
        float,
        "1 follows the prompt as the model does by itself, more leans on it, 0 ignores it; "
        f"default {DiffusionOptions.guidance:g} for continuous modalities, {TOKEN_GUIDANCE:g} for "
        "everything else",
    ),
    "steps": (int, f"denoising steps of continuous images; default {DiffusionOptions.steps}"),
    "sampler": (
        str,
        "of continuous images: auto (the default: flow where the model learnt flow matching, else "
        "ddim), ddim, ddpm or flow",
    ),
    "max_tokens": (
        int,
        f"most new tokens; default {MAX_TOKENS}, for text {MAX_TEXT_TOKENS}. Images have a length "
        "of their own",
    ),
}


def configure(parser: Any) -> None:
    parser.add_argument("run", help="run folder that mom train wrote")
    for name, text in PROMPTS.items():
        parser.add_argument(f"--{name}", default=None, type=str, help=text)
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
        help="modality to generate, by its name in the run, such as text, image or speech; without "
        "it the document goes on until the model ends it, opening modalities by itself",
    )
    parser.add_argument(
        "--out",
        default=None,
        type=str,
        help="file to write (.png, .wav, .txt, .gif, .mp4); several pictures become one grid, "
        "several sounds or videos numbered files; without --to a folder. By default text goes to "
        "standard output, and the rest to generated.png, generated.wav, generated.gif or, without "
        "--to, the folder generated/ below the present one",
    )
    parser.add_argument("--count", default=1, type=int, help="number of samples")
    parser.add_argument(
        "--seed",
        default=None,
        type=int,
        help="of the first sample, default 0; sample i has seed + i",
    )
    for name, (kind, text) in OPTIONS.items():
        parser.add_argument(f"--{name}", default=None, type=kind, help=text)
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
    prompts = _prompts(args)
    if args.count < 1:
        raise ValueError(f"--count is {args.count}; give at least 1")
    if args.max_tokens is not None and args.max_tokens < 1:
        raise ValueError(f"--max_tokens is {args.max_tokens}; give at least 1")
    from ..generation import Generator

    generator = Generator.from_run(args.run, weights=args.weights)
    tokenizers, to = generator.tokenizers, args.to
    text = to is not None and generator.is_text(to)
    options = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    given = [*options, *(["seed"] if args.seed is not None else [])]
    given += ["count"] if args.count > 1 else []
    if text:  # of several, each should be another
        usual = TEXT_TEMPERATURE if args.count == 1 else Sampling.temperature
        options.setdefault("temperature", usual)
    greedy = options.get("temperature") == 0
    if line := without_effect(tokenizers, to, given, greedy=greedy):
        print(f"mom generate: without effect: {line}", file=sys.stderr)
    prompt = [(name, _item(tokenizers, name, value)) for name, value in prompts]
    options["seed"] = args.seed or 0
    if args.stream:
        if not text or args.count != 1 or args.out:
            raise ValueError("--stream prints one sample of --to text; leave out --count and --out")
        stream_text(generator, prompt, to=to, **options)
    elif to is None:
        out = Path(args.out or "generated")
        continue_documents(generator, [prompt] * args.count, out, **options)
    else:
        items = generator.to(to, [prompt] * args.count, **options)
        write_samples(tokenizers, to, items, args.out)
    return 0


def _prompts(args: Any) -> list[tuple[str, str]]:
    """(modality, value) of the flags, those of their own first."""
    prompts = [(name, getattr(args, name)) for name in PROMPTS if getattr(args, name) is not None]
    for item in args.item or []:
        name, equals, file = item.partition("=")
        if not (name and equals and file):
            raise ValueError(f"--item {item!r} names no modality and file; give NAME=FILE")
        prompts.append((name, file))
    if not prompts:
        flags = ", ".join(f"--{name}" for name in PROMPTS)
        raise ValueError(f"the prompt is empty; give {flags} or --item NAME=FILE")
    return prompts


def _item(tokenizers: TokenizerSet, name: str, value: str) -> Any:
    """What a prompt's flag names: the words themselves, or the item of a file."""
    if name == "text":
        return value
    codec = tokenizers.codec(name)
    item = codec.media.read(value)
    if remark := codec.remark(item, codec.options):
        print(f"mom generate: {value}: {remark}", file=sys.stderr)
    return item


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
        if idle := [
            f"--{name}" for name in (*OPTIONS, "count", "seed") if name in {*names} & {*given}
        ]:
            reasons.append(f"{', '.join(idle)} ({why})")

    if "continuous" not in kinds:
        what = "this run has only tokens" if to is None else f"{to} is made of tokens here"
        useless(DIFFUSION_OPTIONS, f"{what}; for continuous images only")
        if to is None:
            useless(["guidance"], "it needs --to")
    if "discrete" not in kinds:
        useless(SAMPLING_OPTIONS, f"{to} is denoised as a whole; for tokens only")
    elif greedy:
        what = "temperature is 0: the most likely token is taken"
        useless(_FILTERS, f"{what}; give --temperature 1")
        if "continuous" not in kinds:
            useless(["count", "seed"], f"{what}, the same in every sample; give --temperature 1")
    if to is not None and (length := tokenizers.fixed_length.get(to)) is not None:
        useless(["max_tokens"], f"every {to} has {length} tokens")
    return "; ".join(reasons)
