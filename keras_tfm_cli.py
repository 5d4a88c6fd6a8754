"""The command `keras-tfm`: look at a checkpoint, convert it, write with it, export it.

Outside of the package, so that `--help` and wrong arguments are answered before TensorFlow is imported.
"""

import argparse
import os
import sys
from collections.abc import Sequence

PATH = "a folder with config.json and model.safetensors, a .gguf file, or a repository's name (org/name)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: those of the command line. Default: `sys.argv`.

    Returns:
        0, or 1 after an error, which is told in one paragraph.
    """
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow tells of every library it does not find
    try:
        _COMMANDS[options.command](options)
    except (OSError, ValueError, ImportError) as error:
        print(f"keras-tfm {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-tfm",
        description="Hugging Face and GGUF checkpoints in Keras and TensorFlow, without torch or transformers.",
        epilog="Example: keras-tfm generate HuggingFaceTB/SmolLM2-135M-Instruct 'Why is the sky blue?' --chat",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="say what a checkpoint is, without reading its weights")
    convert = commands.add_parser("convert", help="write a checkpoint as safetensors for transformers, or as .keras")
    generate = commands.add_parser("generate", help="continue a prompt, or answer it (--chat)")
    export = commands.add_parser("export", help="write a SavedModel: text in, text out, with TensorFlow alone")
    for command in (info, convert, generate, export):
        command.add_argument("path", metavar="PATH", help=PATH)
        command.description = command.format_usage() and _sentence(commands, command)
    convert.add_argument("output", metavar="OUTPUT", help="a folder that does not exist yet, or a file NAME.keras")
    convert.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the weights (%(default)s)"
    )
    export.add_argument("output", metavar="OUTPUT", help="a folder that does not exist yet; servers expect .../1")
    generate.add_argument("prompt", metavar="PROMPT", help="the text to continue")
    generate.add_argument("--chat", action="store_true", help="answer: put the prompt into the chat template")
    for command in (generate, export):
        command.add_argument(
            "--max-new-tokens", type=_positive, default=64, metavar="N", help="new tokens (%(default)s)"
        )
        command.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 = the best token (default)")
        command.add_argument("--top-k", type=int, default=0, metavar="K", help="keep the K best tokens; 0 = all")
        command.add_argument("--top-p", type=float, default=1.0, metavar="P", help="keep the best tokens of mass P")
        command.add_argument("--seed", type=int, default=0, help="of the draws (%(default)s)")
    return parser


def _sentence(commands, command) -> str:
    texts = {action.dest: action.help for action in commands._choices_actions}
    text = texts[command.prog.split()[-1]]
    return text[0].upper() + text[1:] + "."


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, is {number}")
    return number


def _info(options) -> None:
    from keras_tfm.checkpoints.summary import summary

    for name, value in summary(options.path).items():
        print(f"{name:<20} {value}")


def _convert(options) -> None:
    from keras_tfm import checkpoints

    if os.path.exists(options.output):
        raise FileExistsError(f"OUTPUT must not exist yet. Received: {options.output}.")
    model = checkpoints.load(options.path)
    if options.output.endswith(".keras"):
        model.save(options.output)
    else:
        tokenizer, template = (
            _optional(checkpoints.load_tokenizer, options),
            _optional(checkpoints.load_chat_template, options),
        )
        checkpoints.save(model, options.output, tokenizer, dtype=options.dtype, chat_template=template)
    print(f"Wrote {options.output}: {model.count_params():,} weights.")


def _optional(load, options):
    """What the checkpoint has, or None with a word of why."""
    try:
        return load(options.path)
    except (OSError, ValueError, ImportError) as error:
        print(f"Without {load.__name__.removeprefix('load_').replace('_', ' ')}: {error}", file=sys.stderr)
        return None


def _generate(options) -> None:
    from keras_tfm import checkpoints

    prompt = options.prompt
    if options.chat:
        prompt = checkpoints.load_chat_template(options.path)([{"role": "user", "content": prompt}])
    writer = _writer(options)
    for piece in writer.stream(prompt, max_new_tokens=options.max_new_tokens, seed=options.seed):
        print(piece, end="", flush=True)
    print()


def _export(options) -> None:
    writer = _writer(options)
    writer.export(options.output, max_new_tokens=options.max_new_tokens, seed=options.seed)
    print(f"Wrote {options.output}: tf.saved_model.load(...).signatures['generate'] takes and gives text.")


def _writer(options):
    from keras_tfm import checkpoints, samplers
    from keras_tfm.generation import TextGenerator

    sampler = "greedy"
    if options.temperature > 0:
        processors = [samplers.Temperature(options.temperature)]
        processors += [samplers.TopK(options.top_k)] if options.top_k else []
        processors += [samplers.TopP(options.top_p)] if options.top_p < 1 else []
        sampler = samplers.RandomSampler(processors)
    return TextGenerator(checkpoints.load(options.path), checkpoints.load_tokenizer(options.path), sampler)


_COMMANDS = {"info": _info, "convert": _convert, "generate": _generate, "export": _export}

if __name__ == "__main__":
    sys.exit(main())
