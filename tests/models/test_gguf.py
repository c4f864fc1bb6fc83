"""GGUF files: written here by the gguf package, and read with the codes that are in them."""

import numpy as np
import pytest
import torch
from support.tiny import build
from transformers import LlamaConfig, LlamaForCausalLM

import gearshift as gs
from gearshift.core.errors import BrokenFolder
from gearshift.layers.grouped import GroupedLinear
from gearshift.zoo.language import load_language, smollm2_file

gguf = pytest.importorskip("gguf")
Type = gguf.GGMLQuantizationType
CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    tie_word_embeddings=True,
)


def interleaved(weight, heads):
    """Rows in llama.cpp's order: the two halves of each rotated head in turns."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def written(path, kind):
    """A file of a random Llama with its linear layers in one format, and the float model that it stands for."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    file = gguf.GGUFWriter(str(path), "llama")
    file.add_block_count(2)
    file.add_context_length(128)
    file.add_embedding_length(64)
    file.add_feed_forward_length(96)
    file.add_head_count(4)
    file.add_head_count_kv(2)
    file.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    file.add_rope_freq_base(10000.0)
    file.add_rope_dimension_count(16)
    file.add_vocab_size(64)
    file.add_tokenizer_model("gpt2")
    file.add_token_list([*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ012345678", "ab", "<s>", "</s>"])
    file.add_token_types([1] * 62 + [3, 3])
    file.add_token_merges(["a b"])
    file.add_bos_token_id(62)
    file.add_eos_token_id(63)
    for name, weight in model.named_parameters():
        weight = weight.data
        if ".q_proj." in name or ".k_proj." in name:
            weight = interleaved(weight, 4 if ".q_proj." in name else 2)
        called = names.get_name(name, try_suffixes=(".weight",))
        if weight.ndim == 2 and "embed" not in name:
            data = gguf.quants.quantize(weight.numpy(), kind)
            stands_for = torch.from_numpy(np.array(gguf.quants.dequantize(data, kind)))
            file.add_tensor(called, data, raw_dtype=kind)
            if ".q_proj." in name or ".k_proj." in name:
                heads = 4 if ".q_proj." in name else 2
                stands_for = stands_for.view(heads, -1, 2, 64).transpose(1, 2).reshape(weight.shape)
            model.get_parameter(name).data = stands_for
        else:
            file.add_tensor(called, weight.numpy())
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return model


@pytest.mark.parametrize(("kind", "bits"), [(Type.Q4_0, 4), (Type.Q4_1, 4), (Type.Q8_0, 8), (Type.Q5_1, 0)])
def test_layers_keep_the_codes_of_the_file_and_others_are_float(kind, bits, tmp_path):
    exact, tokens = written(tmp_path / "tiny.gguf", kind), torch.arange(20)[None]
    model = gs.read_checkpoint(tmp_path / "tiny.gguf")
    layers = [m for m in model.modules() if isinstance(m, GroupedLinear)]
    assert [(m.bits, m.group) for m in layers] == [(bits, 32)] * (14 if bits else 0)
    for (name, want), got in zip(exact.named_parameters(), model.parameters(), strict=False):
        if not bits:
            assert torch.equal(want, got), name
    for path, layer in exact.named_modules():
        if isinstance(layer, torch.nn.Linear):
            weight = model.get_submodule(path).weight * 1.0
            tolerance = {"rtol": 0, "atol": 0} if kind in (Type.Q4_0, Type.Q8_0, Type.Q5_1) else {}
            torch.testing.assert_close(weight, layer.weight.detach(), **tolerance)
    with torch.no_grad():
        want, got = exact(tokens).logits, model(tokens).logits
    assert (got - want).norm() < 0.02 * want.norm()
    assert not hasattr(model.config, "quantization_config")


def test_a_model_that_was_read_is_saved_and_loaded_with_its_tokenizer(tmp_path, capsys):
    written(tmp_path / "tiny.gguf", Type.Q4_1)
    model, tokens = gs.read_checkpoint(tmp_path / "tiny.gguf"), torch.arange(12)[None]
    assert "GGUF" not in capsys.readouterr().err and model.tokenizer("a b").input_ids
    gs.save(model, tmp_path / "saved")
    again = gs.load(tmp_path / "saved")
    assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert (tmp_path / "saved" / "tokenizer.json").is_file()
    assert "Read from tiny.gguf" in str(gs.status(again))


@pytest.mark.parametrize("damage", ["short", "magic", "empty", "absent"])
def test_a_file_that_is_no_model_is_one_sentence_with_its_name(damage, tmp_path):
    path = tmp_path / "tiny.gguf"
    written(path, Type.Q8_0)
    held = path.read_bytes()
    {
        "short": lambda: path.write_bytes(held[: len(held) // 2]),
        "magic": lambda: path.write_bytes(b"LLAM" + held[4:]),
        "empty": lambda: path.write_bytes(b""),
        "absent": path.unlink,
    }[damage]()
    with pytest.raises(BrokenFolder, match=r"tiny\.gguf cannot be read as a language model in GGUF") as caught:
        gs.read_checkpoint(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_the_plain_recipes_go_on_with_what_was_read(tmp_path):
    written(tmp_path / "tiny.gguf", Type.Q5_1)
    model = gs.read_checkpoint(tmp_path / "tiny.gguf")
    assert gs.status(model).applied == []
    gs.optimize(model, "hqq")
    assert any(isinstance(m, GroupedLinear) for m in model.modules()) and type(build("llama").pipe) is type(model)


def test_a_real_model_answers_and_only_rounds_where_the_file_did(tmp_path):
    """SmolLM2-135M-Instruct as llama.cpp runs it: 210 layers in 4 bits, the embedding in floats."""
    file = smollm2_file()
    model = gs.read_checkpoint(file)
    exact, tokenizer = load_language("smollm2")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    for each in (model, exact):
        told = each.generate(**asked, max_new_tokens=12, do_sample=False)[0, asked.input_ids.shape[1] :]
        assert tokenizer.decode(told, skip_special_tokens=True) == "The capital of France is Paris."
    layers = [m for m in model.modules() if isinstance(m, GroupedLinear)]
    assert len(layers) == 210 and {m.bits for m in layers} == {4}
    assert gs.status(model).size < 0.36 * gs.status(exact).size
