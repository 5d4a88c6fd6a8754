"""Losses, gradients, ids and masks equal those of TRL on the same tensors; its own methods compute them."""

import collections
import types

import numpy as np
import pytest
import tensorflow as tf

from keras_tfm import alignment, checkpoints, data
from tests.alignment.conftest import random_pairs
from tests.alignment.test_preference import loss_and_gradient

pytestmark = [
    pytest.mark.slow,  # importing it takes half a minute
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
LABELS = np.array([True, False, False, True])


@pytest.fixture(scope="module", autouse=True)
def torch():
    torch = pytest.importorskip("torch")
    pytest.importorskip("trl")
    with torch.enable_grad():
        yield torch


class Stub(types.SimpleNamespace):
    """A trainer of TRL with what its loss reads, and nothing else."""

    def __init__(self, torch, **attributes):
        super().__init__(
            model=types.SimpleNamespace(training=True),
            accelerator=types.SimpleNamespace(
                device=torch.device("cpu"),
                num_processes=1,
                gather=lambda x: x,
                gather_for_metrics=lambda x: x,
                reduce=lambda x, reduction: x,
            ),
            _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
            _total_train_tokens=0,
            _tp_size=1,
            aux_loss_enabled=False,
            precompute_ref_logps=True,
            label_smoothing=0.0,
            **attributes,
        )


def as_model(torch, leaf, mask):
    """A "model" that gives these log-probabilities, as TRL's fused heads do: 0 where no label is."""
    nothing = torch.zeros_like(leaf)
    outputs = types.SimpleNamespace(
        log_probs=leaf * mask, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool(), log_sum_sq_probs=nothing
    )
    return lambda **_: outputs


def check(trainer, theirs, inputs, log_probs, reference, labels=None):
    """`theirs` maps log-probabilities (torch, a leaf) to a loss."""
    loss, gradient = loss_and_gradient(trainer, inputs, log_probs, reference, labels)
    their_loss, their_gradient = theirs
    np.testing.assert_allclose(loss, their_loss, **TOLERANCE)
    np.testing.assert_allclose(gradient, their_gradient, **TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "name"), [("DPO", "sigmoid"), ("IPO", "ipo"), ("HingeDPO", "hinge")])
def test_paired_losses(kind, name, seed, policy, torch):
    from trl import DPOTrainer

    inputs, log_probs, reference = random_pairs(seed)

    def sides(x):  # (B, 2, ...) -> (2B, ...), the better ones first
        return torch.tensor(np.concatenate([x[:, 0], x[:, 1]]))

    leaf = sides(log_probs).requires_grad_()
    mask, answers = sides(inputs["answer_mask"][..., 1:]).float(), sides(inputs["answer_mask"]).long()
    references = (sides(reference) * mask).sum(1).chunk(2)
    batch = {
        "input_ids": sides(inputs["token_ids"]).long(),
        "attention_mask": sides(inputs["padding_mask"]).long(),
        "completion_mask": answers,
        "ref_chosen_logps": references[0],
        "ref_rejected_logps": references[1],
    }
    stub = Stub(
        torch,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=[name],
        loss_weights=[1.0],
        beta=0.3,
        use_weighting=False,
    )
    loss = DPOTrainer._compute_loss(stub, Called(stub.model, as_model(torch, leaf, mask)), batch, False)
    loss.backward()
    gradient = np.stack(np.split(leaf.grad.numpy(), 2), axis=1)
    check(getattr(alignment, kind)(policy, 0.3), (loss.item(), gradient), inputs, log_probs, reference)


class Called:
    """An object that is called as another."""

    def __init__(self, model, call):
        self.training, self.call = model.training, call

    def __call__(self, **arguments):
        return self.call(**arguments)


@pytest.mark.parametrize("seed", range(3))
def test_kto(seed, policy, torch):
    from trl import KTOTrainer

    inputs, log_probs, reference = random_pairs(seed)
    mask = torch.tensor(inputs["answer_mask"][..., 1:]).float()
    leaf = torch.tensor(log_probs[:, 0]).requires_grad_()
    strange = (torch.tensor(log_probs[:, 1]) * mask[:, 1]).sum(-1)
    batch = {
        "input_ids": torch.tensor(inputs["token_ids"][:, 0]).long(),
        "attention_mask": torch.tensor(inputs["padding_mask"][:, 0]).long(),
        "completion_mask": torch.tensor(inputs["answer_mask"][:, 0]).long(),
        "label": torch.tensor(LABELS),
        "ref_logps": (torch.tensor(reference[:, 0]) * mask[:, 0]).sum(-1),
        "ref_KL_logps": (torch.tensor(reference[:, 1]) * mask[:, 1]).sum(-1),
    }
    stub = Stub(
        torch,
        beta=0.3,
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=1.5,
        undesirable_weight=0.5,
        _compute_kl_logps=lambda *_: strange,
    )
    loss = KTOTrainer._compute_loss(stub, Called(stub.model, as_model(torch, leaf, mask[:, 0])), batch, False)
    loss.backward()
    gradient = np.stack([leaf.grad.numpy(), np.zeros_like(log_probs[:, 1])], axis=1)
    trainer = alignment.KTO(policy, 0.3, good_weight=1.5, bad_weight=0.5)
    check(trainer, (loss.item(), gradient), inputs, log_probs, reference, LABELS)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["ORPO", "SimPO"])
def test_losses_without_a_reference(kind, seed, policy, torch):
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    inputs, _, _ = random_pairs(seed)
    rng = np.random.default_rng(seed)
    leaf = torch.tensor(rng.normal(size=(4, 2, 9, 11)).astype("float32") * 2, requires_grad=True)
    ids = torch.tensor(inputs["token_ids"]).long()
    labels = ids.masked_fill(~torch.tensor(inputs["answer_mask"]), -100)
    rows = ids.masked_fill(~torch.tensor(inputs["padding_mask"]), -100)
    chosen, rejected = (
        ORPOTrainer.get_batch_logps(leaf[:, side], labels[:, side], average_log_prob=True) for side in (0, 1)
    )
    stub = Stub(torch, beta=0.3, alpha=0.0, loss_type="simpo", simpo_gamma=0.5)
    if kind == "ORPO":
        loss = -ORPOTrainer.odds_ratio_loss(stub, chosen, rejected)[0].mean()
        flat = leaf[:, 0, :-1].reshape(-1, 11)
        loss = loss + torch.nn.CrossEntropyLoss()(flat, rows[:, 0, 1:].reshape(-1))
    else:
        loss = CPOTrainer.cpo_loss(stub, chosen, rejected)[0].mean()
    loss.backward()
    trainer = getattr(alignment, kind)(policy, 0.3)
    logits = tf.constant(leaf.detach().numpy())
    with tf.GradientTape() as tape:
        tape.watch(logits)
        log_probs = tf.gather(tf.nn.log_softmax(logits)[:, :, :-1], inputs["token_ids"][..., 1:], batch_dims=3)
        log_probs = tf.where(inputs["padding_mask"][..., 1:], log_probs, 0.0)
        ours = trainer.compute_loss(x=inputs, y_pred=log_probs)
    np.testing.assert_allclose(ours, loss.item(), **TOLERANCE)
    np.testing.assert_allclose(tape.gradient(ours, logits), leaf.grad.numpy(), **TOLERANCE)


@pytest.mark.parametrize("centering", [None, 0.1])
def test_reward_model(centering, policy, torch):
    from trl import RewardTrainer

    scores = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    leaf = torch.tensor(scores.T.reshape(-1, 1), requires_grad=True)
    stub = Stub(torch, args=types.SimpleNamespace(center_rewards_coefficient=centering))
    model = Called(stub.model, lambda **_: types.SimpleNamespace(logits=leaf))
    loss = RewardTrainer.compute_loss(stub, model, {"attention_mask": torch.ones(10, 3)})
    loss.backward()
    trainer, y_pred = alignment.RewardModel(policy, centering=centering or 0.0), tf.constant(scores)
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        ours = trainer.compute_loss(y_pred=y_pred)
    np.testing.assert_allclose(ours, loss.item(), **TOLERANCE)
    np.testing.assert_allclose(tape.gradient(ours, y_pred), leaf.grad.numpy().reshape(2, 5).T, **TOLERANCE)


@pytest.mark.parametrize("beta", [0.0, 0.2])
@pytest.mark.parametrize("normalization", ["grpo", "dr_grpo", "dapo"])
def test_grpo(normalization, beta, policy, tokenizer, torch):
    from trl import GRPOTrainer

    rng = np.random.default_rng(1)
    mask = np.arange(8) < np.array([3, 8, 1, 5])[:, None]
    old, reference, new = -rng.exponential(size=(3, *mask.shape)).astype("float32")
    advantages = rng.normal(size=4).astype("float32")
    leaf = torch.tensor(old + 0.3 * (new - old), requires_grad=True)
    low, high = 0.1, 0.25
    stub = Stub(
        torch,
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, torch.zeros_like(leaf), None),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta,
        args=types.SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        loss_type=normalization,
        epsilon_low=low,
        epsilon_high=high,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=8,
        _entropy_bonus_enabled=False,
    )
    batch = {
        "prompt_ids": torch.zeros(4, 1).long(),
        "prompt_mask": torch.ones(4, 1).long(),
        "completion_ids": torch.zeros(4, 8).long(),
        "completion_mask": torch.tensor(mask).long(),
        "advantages": torch.tensor(advantages),
        "old_per_token_logps": torch.tensor(old),
        "ref_per_token_logps": torch.tensor(reference),
        "num_items_in_batch": torch.tensor(float(mask.sum())),
    }
    loss = GRPOTrainer._compute_loss(stub, stub.model, batch)
    loss.backward()
    trainer = alignment.GRPO(policy, tokenizer, len, 8, 8, beta=beta, normalization=normalization, clip=(low, high))
    inputs = {
        "answer_mask": np.pad(mask, ((0, 0), (1, 0))),
        "old_log_probs": old,
        "reference_log_probs": reference,
        "advantages": advantages,
        "mean_tokens": np.full(4, mask.sum() / 4, "float32"),
    }
    log_probs = tf.constant(leaf.detach().numpy())
    with tf.GradientTape() as tape:
        tape.watch(log_probs)
        ours = trainer.compute_loss(x=inputs, y_pred=log_probs)
    np.testing.assert_allclose(ours, loss.item(), **TOLERANCE)
    np.testing.assert_allclose(tape.gradient(ours, log_probs), leaf.grad.numpy(), **TOLERANCE)


def test_ppo_is_what_torch_differentiates(policy, tokenizer, torch):
    # TRL has no PPO any more: the formulas of its last one, written down again.
    rng = np.random.default_rng(2)
    mask = np.arange(7) < np.array([3, 7, 1, 5])[:, None]
    old, advantages, old_values, returns = rng.normal(size=(4, *mask.shape)).astype("float32")
    new, values = (torch.tensor(x + 0.3, requires_grad=True) for x in (old, old_values))
    here = torch.tensor(mask)
    ratio = torch.exp(new - torch.tensor(old))
    by_token = torch.max(-torch.tensor(advantages) * ratio, -torch.tensor(advantages) * ratio.clamp(0.8, 1.2))
    near = torch.min(torch.max(values, torch.tensor(old_values) - 0.2), torch.tensor(old_values) + 0.2)
    errors = torch.max((values - torch.tensor(returns)) ** 2, (near - torch.tensor(returns)) ** 2)
    loss = by_token[here].mean() + 0.1 * 0.5 * errors[here].mean()
    loss.backward()
    trainer = alignment.PPO(policy, tokenizer, len, 8, 8)
    inputs = {
        "answer_mask": np.pad(mask, ((0, 0), (1, 0))),
        "old_log_probs": old,
        "advantages": advantages,
        "old_values": old_values,
        "returns": returns,
    }
    y_pred = {"log_probs": tf.constant(new.detach().numpy()), "values": tf.constant(values.detach().numpy())}
    with tf.GradientTape() as tape:
        tape.watch(y_pred)
        ours = trainer.compute_loss(x=inputs, y_pred=y_pred)
    gradients = tape.gradient(ours, y_pred)
    np.testing.assert_allclose(ours, loss.item(), **TOLERANCE)
    np.testing.assert_allclose(gradients["log_probs"], new.grad.numpy(), **TOLERANCE)
    np.testing.assert_allclose(gradients["values"], values.grad.numpy(), **TOLERANCE)


CHATS = [
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi hi"}],
    [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "é two"},
        {"role": "user", "content": "  "},
        {"role": "assistant", "content": "three\n"},
    ],
]
FORMS = {
    "messages": [{"messages": chat} for chat in CHATS],
    "chat": [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in CHATS],
    "text": [
        {"prompt": "2 + 2 =", "completion": " 4"},
        {"prompt": "hi", "completion": "hi<|im_end|>"},  # ends already; tokens merge across the border
        {"prompt": "", "completion": "é hi"},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A byte-level tokenizer with a template that marks answers, as transformers saves it."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS
    from tests.checkpoints.test_chat_template import MARKED

    vocabulary = {symbol: number for number, symbol in enumerate(BYTE_SYMBOLS)}
    merges = [("Ġ", "h"), ("h", "i"), ("hi", "hi"), ("i", "h"), ("Ġ", "Ġ"), ("Ã", "©")]
    vocabulary |= {a + b: 256 + number for number, (a, b) in enumerate(merges)}
    rust = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    rust.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = tokenizers.decoders.ByteLevel()
    rust.add_special_tokens(["<s>", "<|im_start|>", "<|im_end|>"])
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=rust, bos_token="<s>", eos_token="<|im_end|>")
    theirs.chat_template = MARKED
    path = tmp_path_factory.mktemp("tokenizer")
    theirs.save_pretrained(path)
    return theirs, path


@pytest.mark.parametrize("form", FORMS)
def test_ids_and_masks_of_instructions(form, folder):
    import datasets
    from trl import SFTConfig, SFTTrainer

    theirs, path = folder
    args = SFTConfig(
        output_dir=str(path),
        max_length=None,
        assistant_only_loss=form == "messages",
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    stub = types.SimpleNamespace(_tokenizer=theirs, chat_template=None, completion_only_loss=form != "messages")
    given = datasets.Dataset.from_list(FORMS[form])
    expected = SFTTrainer._prepare_dataset(stub, given, theirs, args, False, None, "train")
    rows = data.answered_rows(FORMS[form], checkpoints.load_tokenizer(path), checkpoints.load_chat_template(path))
    assert [row.token_ids.tolist() for row in rows] == list(expected["input_ids"])
    for row, labels in zip(rows, expected["labels"], strict=True):
        assert np.where(row.is_answer, row.token_ids, -100).tolist() == labels
