"""Copies the weights of tiny random Hugging Face models into ours, so that logits can be compared. For tests only."""

import numpy as np
import torch
import transformers

from keras_tfm.layers import RotaryEmbedding
from keras_tfm.models import BertPretrainer, MaskedLM, build_bert, build_gpt, build_llama


def gpt2_pair(vocabulary_size=29, max_sequence_length=16, num_layers=2, num_heads=3, hidden_dim=12):
    """(Hugging Face GPT2LMHeadModel, our CausalLM) with the same random weights."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocabulary_size,
        n_positions=max_sequence_length,
        n_layer=num_layers,
        n_head=num_heads,
        n_embd=hidden_dim,
        initializer_range=0.3,  # 0.02 would make all logits nearly 0 and hide differences
    )
    theirs = _shaken(transformers.GPT2LMHeadModel(config).eval())
    ours = build_gpt(
        vocabulary_size=vocabulary_size,
        max_sequence_length=max_sequence_length,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
    )
    weights = _weights(theirs)
    ours.token_embedding.embedding.embeddings.assign(weights["transformer.wte.weight"])
    ours.token_embedding.position.embeddings.assign(weights["transformer.wpe.weight"])
    for i, block in enumerate(ours.stack.blocks):
        key = f"transformer.h.{i}"
        _set_norm(block.attention_wrap.norm_before, weights, f"{key}.ln_1")
        _set_norm(block.feed_forward_wrap.norm_before, weights, f"{key}.ln_2")
        attention = block.self_attention
        kernels = np.split(weights[f"{key}.attn.c_attn.weight"], 3, axis=1)  # Conv1D keeps (inputs, outputs)
        biases = np.split(weights[f"{key}.attn.c_attn.bias"], 3)
        dense = (attention.query_dense, attention.key_dense, attention.value_dense)
        for layer, kernel, bias in zip(dense, kernels, biases, strict=True):
            layer.set_weights([kernel, bias])
        for layer, name in (
            (attention.output_dense, "attn.c_proj"),
            (block.feed_forward.intermediate_dense, "mlp.c_fc"),
            (block.feed_forward.output_dense, "mlp.c_proj"),
        ):
            layer.set_weights([weights[f"{key}.{name}.weight"], weights[f"{key}.{name}.bias"]])
    _set_norm(ours.stack.final_norm, weights, "transformer.ln_f")
    return theirs, ours


def llama_pair(num_heads=4, num_key_value_heads=4, tie_weights=False, rope_theta=10_000.0):
    """(Hugging Face LlamaForCausalLM, our CausalLM) with the same random weights."""
    torch.manual_seed(0)
    sizes = {"vocabulary_size": 29, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 20}
    config = transformers.LlamaConfig(
        vocab_size=sizes["vocabulary_size"],
        num_hidden_layers=sizes["num_layers"],
        hidden_size=sizes["hidden_dim"],
        intermediate_size=sizes["intermediate_dim"],
        num_attention_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=tie_weights,
        initializer_range=0.3,
    )
    theirs = _shaken(transformers.LlamaForCausalLM(config).eval())
    ours = build_llama(
        num_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        rotary=RotaryEmbedding(max_wavelength=rope_theta),
        norm_epsilon=1e-5,
        tie_weights=tie_weights,
        **sizes,
    )
    weights = _weights(theirs)
    ours.token_embedding.embedding.embeddings.assign(weights["model.embed_tokens.weight"])
    for i, block in enumerate(ours.stack.blocks):
        key = f"model.layers.{i}"
        block.attention_wrap.norm_before.set_weights([weights[f"{key}.input_layernorm.weight"]])
        block.feed_forward_wrap.norm_before.set_weights([weights[f"{key}.post_attention_layernorm.weight"]])
        attention, feed_forward = block.self_attention, block.feed_forward
        for layer, name in (
            (attention.query_dense, "self_attn.q_proj"),
            (attention.key_dense, "self_attn.k_proj"),
            (attention.value_dense, "self_attn.v_proj"),
            (attention.output_dense, "self_attn.o_proj"),
            (feed_forward.gate_dense, "mlp.gate_proj"),
            (feed_forward.intermediate_dense, "mlp.up_proj"),
            (feed_forward.output_dense, "mlp.down_proj"),
        ):
            layer.set_weights([weights[f"{key}.{name}.weight"].T])  # Linear keeps (outputs, inputs)
    ours.stack.final_norm.set_weights([weights["model.norm.weight"]])
    if not tie_weights:
        ours.head.set_weights([weights["lm_head.weight"].T])
    return theirs, ours


def logits_of(theirs, token_ids, mask=None) -> np.ndarray:
    """float32 (B, T, V) of the Hugging Face model; positions count the real tokens, as ours do."""
    arguments = {"input_ids": torch.tensor(token_ids.astype("int64"))}
    if mask is not None:
        arguments["attention_mask"] = torch.tensor(mask.astype("int64"))
        arguments["position_ids"] = torch.tensor(np.maximum(mask.cumsum(1) - 1, 0).astype("int64"))
    with torch.no_grad():
        return theirs(**arguments).logits.numpy()


def _shaken(model):
    """Norm gains and biases, which start as 1 and 0, become random, so that a forgotten one is noticed."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def _weights(model) -> dict:
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def _set_norm(norm, weights, key):
    norm.set_weights([weights[f"{key}.weight"], weights[f"{key}.bias"]])


def bert_pair(vocabulary_size=29, hidden_dim=12, num_heads=3, activation="gelu"):
    """(Hugging Face BertForPreTraining, our BertPretrainer) with the same random weights."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=vocabulary_size,
        max_position_embeddings=16,
        num_hidden_layers=2,
        num_attention_heads=num_heads,
        hidden_size=hidden_dim,
        intermediate_size=20,
        hidden_act=activation,
        initializer_range=0.3,
    )
    theirs = _shaken(transformers.BertForPreTraining(config).eval())
    encoder = build_bert(
        vocabulary_size=vocabulary_size,
        max_sequence_length=16,
        num_layers=2,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
        intermediate_dim=20,
        activation=activation,
    )
    ours = BertPretrainer(encoder, activation=activation)
    weights = _weights(theirs)
    _set_bert_encoder(encoder, weights, "bert", weights["bert.embeddings.position_embeddings.weight"])
    encoder.token_embedding.segment.embeddings.assign(weights["bert.embeddings.token_type_embeddings.weight"])
    _set_dense(encoder.pooler, weights, "bert.pooler.dense")
    _set_dense(ours.masked_lm.dense, weights, "cls.predictions.transform.dense")
    _set_norm(ours.masked_lm.norm, weights, "cls.predictions.transform.LayerNorm")
    ours.masked_lm.bias.assign(weights["cls.predictions.bias"])
    _set_dense(ours.next_sentence, weights, "cls.seq_relationship")
    return theirs, ours


def roberta_pair(vocabulary_size=29, hidden_dim=12, num_heads=3):
    """(Hugging Face RobertaForMaskedLM, our MaskedLM without segments) with the same random weights."""
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=vocabulary_size,
        max_position_embeddings=18,  # 16 and the two before the first: position ids start at padding_idx + 1 = 2
        num_hidden_layers=2,
        num_attention_heads=num_heads,
        hidden_size=hidden_dim,
        intermediate_size=20,
        type_vocab_size=1,
        pad_token_id=1,
        layer_norm_eps=1e-5,
        initializer_range=0.3,
    )
    theirs = _shaken(transformers.RobertaForMaskedLM(config).eval())
    encoder = build_bert(
        vocabulary_size=vocabulary_size,
        max_sequence_length=16,
        num_layers=2,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
        intermediate_dim=20,
        num_segments=0,
        norm_epsilon=1e-5,
        pooler=False,
    )
    ours = MaskedLM(encoder)
    weights = _weights(theirs)
    # Every token is of the one segment, so its vector may as well be a part of each position's.
    positions = weights["roberta.embeddings.position_embeddings.weight"][2:]
    positions = positions + weights["roberta.embeddings.token_type_embeddings.weight"]
    _set_bert_encoder(encoder, weights, "roberta", positions)
    _set_dense(ours.masked_lm.dense, weights, "lm_head.dense")
    _set_norm(ours.masked_lm.norm, weights, "lm_head.layer_norm")
    ours.masked_lm.bias.assign(weights["lm_head.bias"])
    return theirs, ours


def _set_bert_encoder(encoder, weights, key, positions):
    encoder.token_embedding.embedding.embeddings.assign(weights[f"{key}.embeddings.word_embeddings.weight"])
    encoder.token_embedding.position.embeddings.assign(positions)
    _set_norm(encoder.token_embedding.norm, weights, f"{key}.embeddings.LayerNorm")
    for i, block in enumerate(encoder.stack.blocks):
        layer = f"{key}.encoder.layer.{i}"
        attention, feed_forward = block.self_attention, block.feed_forward
        for dense, name in (
            (attention.query_dense, "attention.self.query"),
            (attention.key_dense, "attention.self.key"),
            (attention.value_dense, "attention.self.value"),
            (attention.output_dense, "attention.output.dense"),
            (feed_forward.intermediate_dense, "intermediate.dense"),
            (feed_forward.output_dense, "output.dense"),
        ):
            _set_dense(dense, weights, f"{layer}.{name}")
        _set_norm(block.attention_wrap.norm_after, weights, f"{layer}.attention.output.LayerNorm")
        _set_norm(block.feed_forward_wrap.norm_after, weights, f"{layer}.output.LayerNorm")


def _set_dense(dense, weights, key):
    dense.set_weights([weights[f"{key}.weight"].T, weights[f"{key}.bias"]])  # Linear keeps (outputs, inputs)
