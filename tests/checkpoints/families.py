"""Tiny random models of Hugging Face, one line for each family and variant: name -> (config class, its numbers)."""

import torch
import transformers

_LLAMA = {
    "vocab_size": 29,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_GEMMA2 = {**_LLAMA, "head_dim": 6}
_NEOX = {**_LLAMA, "hidden_size": 32}
del _NEOX["num_key_value_heads"]
_GPT2 = {"vocab_size": 29, "n_positions": 16, "n_layer": 2, "n_head": 3, "n_embd": 12}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

FAMILIES = {
    "gpt2": ("GPT2", _GPT2),
    "gpt2_own_width_and_activation": ("GPT2", {**_GPT2, "n_inner": 20, "activation_function": "relu"}),
    "gpt2_gelu": ("GPT2", {**_GPT2, "activation_function": "gelu", "layer_norm_epsilon": 1e-3}),
    "gpt2_untied": ("GPT2", {**_GPT2, "tie_word_embeddings": False}),
    "llama2": ("Llama", {**_LLAMA, "num_key_value_heads": 4}),
    "llama3": ("Llama", {**_LLAMA, "rope_parameters": _LLAMA3}),
    "llama_linear": ("Llama", {**_LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "llama_biases": ("Llama", {**_LLAMA, "attention_bias": True, "mlp_bias": True, "head_dim": 6}),
    "smollm": ("Llama", {**_LLAMA, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {**_LLAMA, "sliding_window": 4}),
    "mistral_no_window": ("Mistral", {**_LLAMA, "sliding_window": None, "head_dim": 8}),
    "qwen2": ("Qwen2", _LLAMA),
    "qwen2_window": (
        "Qwen2",
        {
            **_LLAMA,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "gemma2": ("Gemma2", {**_GEMMA2, "sliding_window": 4}),
    "gemma2_other_caps": (
        "Gemma2",
        {**_GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 5},
    ),
    "pythia": ("GPTNeoX", _NEOX),
    "neox_one_after_the_other": (
        "GPTNeoX",
        {
            **_NEOX,
            "use_parallel_residual": False,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
        },
    ),
    "bloom": ("Bloom", {"vocab_size": 29, "hidden_size": 24, "n_layer": 2, "n_head": 6}),
    "qwen3": ("Qwen3", {**_LLAMA, "head_dim": 8}),
}


def tiny(name: str, **changes):
    """The random model, its norms and biases shaken so that a forgotten one is noticed; with other numbers for some."""
    torch.manual_seed(0)
    kind, numbers = FAMILIES[name]
    config = getattr(transformers, f"{kind}Config")(**{**numbers, **changes}, initializer_range=0.3)
    config._attn_implementation = "eager"  # the others have no soft cap
    model = getattr(transformers, f"{kind}{'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model
