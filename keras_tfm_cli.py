"""The command `keras-tfm`: look at a checkpoint, convert it, write with it, export it.

Outside of the package, so that `--help`, `--version` and wrong arguments are answered before TensorFlow is imported,
which takes seconds. Answers go to the standard output, and what is under way to the standard error.
"""

import argparse
import contextlib
import difflib
import gc
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PATH = "a folder with config.json and model.safetensors, a .gguf file, or a repository's name (org/name)"
# Keras imports them if they are installed, for parts that no command uses: a third of the time that imports take.
_UNUSED = ("matplotlib", "pandas", "sklearn")
_REPOSITORY = re.compile(r"\w[\w.-]*(/[\w.-]+)?(?<!\.gguf)(?<!\.safetensors)(?<!\.keras)(?<!\.json)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: those of the command line. Default: `sys.argv`.

    Returns:
        0, or 1 after an error, which is told in one paragraph.
    """
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its errors about missing devices are none; Python raises ours
    os.environ.setdefault("KERAS_TFM_COMPILE_CACHE", "1")  # the next command of this kind need not compile
    gc.disable()  # a command makes millions of objects that it keeps: looking through them takes a tenth of its time
    try:
        _check(options)
        _COMMANDS[options.command](options)
    except (OSError, ValueError, ImportError) as error:
        print(f"keras-tfm {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    finally:
        gc.enable()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-tfm",
        description="Hugging Face and GGUF checkpoints in Keras and TensorFlow, without torch or transformers.",
        epilog="Example: keras-tfm generate HuggingFaceTB/SmolLM2-135M-Instruct 'Why is the sky blue?' --chat",
    )
    parser.add_argument("--version", action="version", version=f"keras-tfm {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command_of(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")

    info = command_of("info", "say what a checkpoint is, without reading its weights")
    convert = command_of("convert", "write a checkpoint as safetensors for transformers, or as .keras")
    generate = command_of("generate", "continue a prompt, or answer it (--chat)")
    export = command_of("export", "write a SavedModel: text in, text out, with TensorFlow alone")
    for command in (info, convert, generate, export):
        command.add_argument("path", metavar="PATH", help=PATH)
        command.add_argument(
            "--ignore",
            action="append",
            default=[],
            metavar="KEY",
            help="pass over a key of config.json that nobody knows (may be repeated)",
        )
    convert.add_argument("output", metavar="OUTPUT", help="a folder that does not exist yet, or a file NAME.keras")
    convert.add_argument("--overwrite", action="store_true", help="replace OUTPUT when the new one is complete")
    convert.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights in a folder (float32)"
    )
    export.add_argument("output", metavar="OUTPUT", help="a folder that does not exist yet; servers expect .../1")
    export.add_argument(
        "--jit-compile",
        action="store_true",
        help="let XLA compile the loop, which is faster; TensorFlow Serving on CPUs must then be started with "
        "--xla_cpu_compilation_enabled (without this option it runs on every server)",
    )
    export.add_argument(
        "--max-total-tokens",
        type=_positive,
        metavar="N",
        help="most tokens of a prompt and its new tokens together (what the checkpoint's positions hold)",
    )
    export.add_argument("--max-prompts", type=_positive, metavar="N", help="most prompts of a request (any number)")
    generate.add_argument("prompt", metavar="PROMPT", help="the text to continue")
    generate.add_argument("--chat", action="store_true", help="answer: put the prompt into the chat template")
    for command in (generate, export):
        command.add_argument(
            "--max-new-tokens", type=_positive, default=64, metavar="N", help="new tokens (%(default)s)"
        )
        command.add_argument(
            "--temperature", type=_not_negative, default=0.0, metavar="T", help="0 = the best token (default)"
        )
        command.add_argument("--top-k", type=_positive, metavar="K", help="draw from the K best tokens (all)")
        command.add_argument("--top-p", type=_share, metavar="P", help="draw from the best tokens of mass P (1)")
        command.add_argument("--seed", type=int, default=0, help="of the draws (%(default)s)")
        command.add_argument("--num-beams", type=_positive, default=1, metavar="N", help="beams (%(default)s)")
        command.add_argument("--prefix", default="", help="put before each source (encoder-decoders)")
    return parser


def _version() -> str:
    """Read from the source, since importing the package would import TensorFlow."""
    package = Path(importlib.util.find_spec("keras_tfm").origin)
    return re.search(r'^__version__ = "(.+)"$', package.read_text(encoding="utf-8"), re.MULTILINE)[1]


def _positive(text: str) -> int:
    return _number(int, text, lambda number: number >= 1, "an integer of at least 1")


def _not_negative(text: str) -> float:
    return _number(float, text, lambda number: 0 <= number < float("inf"), "a number of at least 0")


def _share(text: str) -> float:
    return _number(float, text, lambda number: 0 < number <= 1, "greater than 0 and at most 1")


def _number(kind: type, text: str, is_valid: Callable, what: str):
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not is_valid(number):
        raise argparse.ArgumentTypeError(f"must be {what}. Received: {text!r}.")
    return number


def _check(options) -> None:
    """Refuses what can be known to be wrong without TensorFlow."""
    path = Path(options.path).expanduser()
    if not path.exists() and not _REPOSITORY.fullmatch(options.path):
        others = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, others, n=1)
        hint = f"Did you mean {path.parent / near[0]}?" if near else f"PATH is {PATH}."
        raise FileNotFoundError(f"PATH must exist. Received: {options.path}, which does not. {hint}")
    if options.command in ("convert", "export") and os.path.exists(os.path.expanduser(options.output)):
        can = options.command == "convert"
        if not (can and options.overwrite):
            advice = "Pass --overwrite to replace it." if can else "Remove it, or name another folder."
            raise FileExistsError(f"OUTPUT must not exist yet. Received: {options.output}. {advice}")
    if options.command == "convert" and _is_keras(options) and options.dtype:
        raise ValueError(
            f"--dtype must not be given for a .keras file, which keeps float32. Received: --dtype {options.dtype}. "
            "Leave it out, or write a folder."
        )
    if options.command == "export" and (options.max_total_tokens or float("inf")) <= options.max_new_tokens:
        raise ValueError(
            "--max-total-tokens must be greater than --max-new-tokens: a prompt comes before the new tokens. "
            f"Received: {options.max_total_tokens} and {options.max_new_tokens}."
        )
    if options.command in ("generate", "export") and not options.temperature and (options.top_k or options.top_p):
        raise ValueError(
            "--top-k and --top-p must come with a --temperature above 0: without one, the best token is taken. "
            f"Received: --temperature {options.temperature}."
        )

    if options.command in ("generate", "export") and options.num_beams > 1 and options.temperature:
        raise ValueError(
            "--num-beams must come without a --temperature: beam search draws nothing. "
            f"Received: --num-beams {options.num_beams} and --temperature {options.temperature}."
        )


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Hides what TensorFlow prints before it has read its log level, of processors and missing CUDA libraries.

    If it fails, all is shown; and always if `TF_CPP_MIN_LOG_LEVEL` asks for warnings (0 or 1).
    """
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] in ("0", "1"):
        yield
        return
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            hidden.seek(0)
            os.write(shown, hidden.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)


@contextlib.contextmanager
def _as_if_missing(packages: Sequence[str]) -> Iterator[None]:
    """Hides packages that nobody has imported yet from whoever tries to, and gives them back at the end."""
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # for None, Python says that there is no such module
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]


def _info(options) -> None:
    """It loads TensorFlow, though no weights: the maps that know what is supported are made of Keras layers."""
    for name, value in _opened(options).summary().items():
        print(f"{name:<20} {value}")


def _convert(options) -> None:
    checkpoint = _opened(options)
    from keras_tfm import checkpoints

    model = checkpoint.model()
    _tell(f"Writing {options.output} ...")
    if _is_keras(options):
        model.save(options.output, overwrite=options.overwrite)
    else:
        tokenizer, template = _optional(checkpoint.tokenizer), _optional(checkpoint.chat_template)
        dtype = options.dtype or "float32"
        checkpoints.save(model, options.output, tokenizer, dtype, chat_template=template, overwrite=options.overwrite)
    print(f"Wrote {options.output}: {model.count_params():,} weights.")


def _is_keras(options) -> bool:
    return options.output.endswith(".keras")


def _opened(options):
    _tell(f"Loading {options.path} ...")
    with _silenced(), _as_if_missing(_UNUSED):
        import tensorflow as tf

        from keras_tfm import checkpoints

        tf.config.list_logical_devices()  # it looks for GPUs now, and not in the middle of the answer
    return checkpoints.open(options.path, options.ignore)


def _optional(read: Callable):
    """What the checkpoint has, or None with a word of why."""
    try:
        return read()
    except (OSError, ValueError, ImportError) as error:
        print(f"Without {read.__name__.replace('_', ' ')}: {error}", file=sys.stderr)
        return None


def _generate(options) -> None:
    checkpoint, prompt = _opened(options), options.prompt
    if options.chat:
        prompt = checkpoint.chat_template()([{"role": "user", "content": prompt}])
    writer = _writer(checkpoint, options)
    _tell("Compiling what this machine has not compiled before, which takes a while the first time ...")
    for piece in writer.stream(prompt, max_new_tokens=options.max_new_tokens, seed=options.seed):
        print(piece, end="", flush=True)
    print()


def _export(options) -> None:
    checkpoint = _opened(options)
    writer = _writer(checkpoint, options)
    _tell(f"Tracing the loop and writing {options.output} ...")
    writer.export(
        options.output,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        max_total_tokens=options.max_total_tokens,
        max_prompts=options.max_prompts,
        jit_compile=options.jit_compile,
    )
    print(f"Wrote {options.output}: tf.saved_model.load(...).signatures['generate'] takes and gives text.")


def _writer(checkpoint, options):
    """What writes with the checkpoint, as the options say."""
    more = {"prefix": options.prefix} if options.prefix else {}
    return checkpoint.writer(_sampler(options), **more)


def _sampler(options):
    from keras_tfm import samplers

    if options.num_beams > 1:
        return samplers.BeamSampler(num_beams=options.num_beams)
    if options.temperature == 0:
        return "greedy"
    processors = [samplers.Temperature(options.temperature)]
    processors += [samplers.TopK(options.top_k)] if options.top_k else []
    processors += [samplers.TopP(options.top_p)] if options.top_p else []
    return samplers.RandomSampler(processors)


_COMMANDS = {"info": _info, "convert": _convert, "generate": _generate, "export": _export}

if __name__ == "__main__":
    sys.exit(main())
