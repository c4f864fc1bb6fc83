"""The small trained models load quietly and draw what they are asked for; the judge of that can be trusted."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from gearshift import zoo
from gearshift.core.errors import BadValue, BrokenFolder, UnknownName
from gearshift.zoo import data
from gearshift.zoo.judge import FOLDER as JUDGE
from gearshift.zoo.judge import Judge, frechet

has_data = pytest.mark.skipif(
    not Path(data.FOLDER).is_dir(), reason="Fashion-MNIST (Debian's dataset-fashion-mnist) is not installed"
)


@pytest.fixture(scope="module")
def judge():
    return Judge.load()


@pytest.fixture(scope="module")
def pipeline():
    return zoo.load("text-to-image")


@pytest.fixture(scope="module")
def drawn(pipeline):
    """Eight images at ten steps, one of every color."""
    asked = [data.prompts()[8 * ((3 * color) % 10) + color] for color in range(8)]
    made = pipeline(
        [prompt.text for prompt in asked],
        num_inference_steps=10,
        guidance_scale=4.5,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    )
    return made.images * 2 - 1, asked


def test_importing_the_zoo_imports_no_torch():
    code = "import sys, gearshift.zoo; sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_text_to_image_loads_in_fp32_without_a_word(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", FutureWarning)
        pipeline = zoo.load("text-to-image")
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.float32}
    assert capfd.readouterr() == ("", "")


def test_loading_leaves_the_libraries_as_loud_as_they_were():
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    def state():
        return [(lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in (of_diffusers, of_transformers)]

    before = state()
    zoo.load("text-to-image")
    assert state() == before


def test_every_word_of_every_caption_is_one_token():
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(zoo.path("text-to-image") / "tokenizer")
    for template in range(len(data.TEMPLATES)):
        for garment in range(len(data.GARMENTS)):
            words = data.caption(garment, garment % 8, template).split()
            tokens = tokenizer.convert_ids_to_tokens(tokenizer(" ".join(words)).input_ids)
            assert tokens[1:-1] == [word + "</w>" for word in words]


def test_ten_steps_draw_the_garment_and_the_color_asked_for(judge, drawn):
    images, asked = drawn
    garment, color = judge.accuracy(
        images, torch.tensor([p.garment for p in asked]), torch.tensor([p.color for p in asked])
    )
    assert garment >= 0.75
    assert color >= 0.75


def test_the_same_seed_draws_the_same_image(pipeline):
    prompt = data.prompts()[0].text
    first, second = (
        pipeline(prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(3), output_type="pt").images
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_the_shipped_folder_is_small_and_holds_no_pickle():
    files = [file for file in JUDGE.parent.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".txt", ".safetensors"}
    assert not [file for file in files if file.suffix == ".json" and '"_name_or_path": "/' in file.read_text()]
    assert sum(file.stat().st_size for file in files) < 12e6


def test_an_unknown_model_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match="text-to-image"):
        zoo.path("text-to-imag")


def test_a_model_that_is_not_there_says_where_it_comes_from(monkeypatch, tmp_path):
    monkeypatch.setitem(zoo._FOLDERS, "dit", tmp_path)
    with pytest.raises(BrokenFolder, match="checkout of the repository"):
        zoo.load("dit")


@pytest.mark.skipif(not zoo._FOLDERS["dit"].is_dir(), reason="the DiT comes with the repository only")
def test_the_dit_is_a_stock_pipeline_that_draws_what_it_is_asked_for(judge):
    pipeline = zoo.load("dit")
    assert type(pipeline).__name__ == "DiTPipeline"
    labels = pipeline.get_label_ids(["red trousers", "blue boot", "green bag", "white dress"])
    generator = torch.Generator().manual_seed(0)
    made = pipeline(labels, num_inference_steps=10, guidance_scale=4.0, generator=generator, output_type="np").images
    images = torch.from_numpy(made).permute(0, 3, 1, 2) * 2 - 1
    wanted = torch.tensor(labels)
    garment, color = judge.accuracy(images, wanted // 8, wanted % 8)
    assert garment >= 0.75
    assert color >= 0.75


def test_frechet_is_nought_for_equal_sets_and_grows_with_the_shift():
    features = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    assert frechet(features, features) < 1e-6
    assert frechet(features, features + 0.5) == pytest.approx(8 * 0.25, rel=1e-6)


def test_noise_is_far_from_real_images_and_drawn_ones_are_nearer(judge, drawn):
    noise = torch.randn(200, 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert judge.distance(noise) > 2 * judge.distance(drawn[0])


@has_data
def test_the_judge_is_right_about_real_images_in_color_and_in_gray(judge):
    images, garments, colors = data.held_out(500)
    garment, color = judge.accuracy(images, garments, colors)
    assert garment > 0.85
    assert color > 0.98
    gray = data.fashion_mnist("test")[0][:500, None].float() / 127.5 - 1
    assert judge.accuracy(gray, garments, torch.full_like(colors, data.COLORS.index("white")))[0] > 0.85


@has_data
def test_real_images_are_near_to_the_stored_reference(judge):
    assert judge.distance(data.held_out(1000)[0]) < 0.5


@has_data
def test_colored_images_are_padded_tinted_and_between_minus_one_and_one():
    gray, _ = data.fashion_mnist("test")
    images = data.colored(gray[:8], torch.arange(8))
    assert images.shape == (8, 3, 32, 32)
    assert images.min() == -1
    assert images.max() <= 1
    assert (images[0, 1:] == -1).all(), "red has neither green nor blue"
    assert (images[:, :, :2] == -1).all(), "the border is black"


def test_without_the_data_the_error_names_the_package(tmp_path):
    with pytest.raises(BrokenFolder, match="dataset-fashion-mnist"):
        data.fashion_mnist("test", tmp_path)


def test_prompts_to_search_on_and_prompts_to_report_on_share_nothing():
    search, report = data.prompt_set("search", 60), data.prompt_set("report", 60)
    assert not {p.text for p in search} & {p.text for p in report}
    assert not {p.seed for p in search} & {p.seed for p in report}
    for part in (search, report):
        assert len({p.garment for p in part[:10]}) == 10
        assert len({p.color for p in part[:40]}) == 8
    with pytest.raises(BadValue, match="'search' or 'report'"):
        data.prompt_set("train")
