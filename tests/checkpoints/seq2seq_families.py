"""Tiny random encoder-decoders of Hugging Face, a line for each variant: name -> (class, config class, its numbers)."""

import torch
import transformers

_T5 = {
    "vocab_size": 29,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 20,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
}
_BART = {
    "vocab_size": 29,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 32,
    "eos_token_id": 2,
    "forced_eos_token_id": None,
}
_MARIAN = {**_BART, "pad_token_id": 28, "decoder_start_token_id": 28, "eos_token_id": 0}

SEQ2SEQ = {
    "t5": ("T5", _T5),
    "t5_gated_untied": ("T5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5_silu_shallow_decoder": ("T5", {**_T5, "feed_forward_proj": "gated-silu", "num_decoder_layers": 1}),
    "mt5": ("MT5", {**_T5, "layer_norm_epsilon": 1e-3}),
    "bart": ("Bart", {**_BART, "decoder_start_token_id": 2}),
    "bart_scaled_shallow_decoder": (
        "Bart",
        {**_BART, "scale_embedding": True, "decoder_layers": 1, "activation_function": "relu"},
    ),
    "mbart": ("MBart", {**_BART, "scale_embedding": True, "decoder_start_token_id": 5}),
    "marian": ("Marian", {**_MARIAN, "scale_embedding": True, "activation_function": "swish"}),
    "marian_two_vocabularies": (
        "Marian",
        {
            **_MARIAN,
            "decoder_vocab_size": 23,
            "share_encoder_decoder_embeddings": False,
            "pad_token_id": 22,
            "decoder_start_token_id": 22,
            "num_hidden_layers": 2,
        },
    ),
}


def tiny_seq2seq(name, scale=0.3, **changes):
    """The untrained model of that name, shaken."""
    kind, numbers = SEQ2SEQ[name]
    config = getattr(transformers, f"{kind}Config")(**{**numbers, **changes})
    if numbers.get("tie_word_embeddings") is False:
        config.tie_word_embeddings = False  # transformers 5 sets it to True
    model = getattr(transformers, "MarianMTModel" if kind == "Marian" else f"{kind}ForConditionalGeneration")(config)
    shaken(model, scale)
    with torch.no_grad():
        if numbers.get("tie_word_embeddings") is False:  # only the head is another in the published ones
            for stack in (model.encoder, model.decoder):
                stack.embed_tokens.weight.copy_(model.shared.weight)
    return model


def shaken(model, scale=0.3, seed=0):
    """The model with weights of size `scale`, its norms and biases shaken so that a forgotten one shows."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for label, tensor in (*model.named_parameters(), *model.named_buffers()):
            if ("embed_positions" in label and model.config.model_type == "marian") or not tensor.is_floating_point():
                continue
            is_gain = tensor.ndim == 1 and label.endswith("weight")
            tensor.copy_(scale * torch.randn_like(tensor) + is_gain)
    return model.eval()
