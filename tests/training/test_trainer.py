"""The loop: it minimizes, validates, stops early, and goes on where it was cut off."""

from types import SimpleNamespace

import pytest
import torch
from support.each import each
from torch import nn

from gearshift.training import diffusion
from gearshift.training import trainer as module
from gearshift.training.checkpoint import Checkpoint, digest
from gearshift.training.trainer import Settings, Trainer


class Line(nn.Module):
    """Mean squared error of a linear model of a batch (x, y)."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(4, 1).to(dtype)

    def forward(self, batch):
        x, y = batch
        return (self.model(x.to(self.model.weight.dtype)).float() - y).square().mean()


def batches(count=24):
    generator = torch.Generator().manual_seed(1)
    slope = torch.tensor([[1.0, -2.0, 0.5, 3.0]]).T
    x = [torch.randn(8, 4, generator=generator) for _ in range(count)]
    return [(v, v @ slope) for v in x]


def fit(objective, settings, checkpoint=None, on_step=None):
    data = batches()
    made = Trainer(
        settings, objective, dict.fromkeys(objective.parameters(), 1.0), data[4:], data[:4], print, checkpoint
    )
    return made.run(on_step)


@each("name", ["AdamW", "Adam", "AdamW8bit"])
@each("dtype", [torch.float32, torch.bfloat16])
def test_it_learns_a_line(name, dtype):
    objective = Line(dtype)
    curve = fit(objective, Settings(epochs=20, rate=0.05, optimizer=name, accumulation=2))
    assert curve.best < 0.02 * curve.validation[0][1]
    assert objective.model.weight.dtype == dtype
    off = objective.model.weight.detach().float() - torch.tensor([[1.0, -2.0, 0.5, 3.0]])
    assert off.abs().max() < 0.15


def test_the_best_values_stay_when_it_gets_worse():
    objective = Line()
    with torch.no_grad():
        objective.model.weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 3.0]]))
        objective.model.bias.zero_()
    curve = fit(objective, Settings(epochs=40, rate=0.5))
    assert curve.stopped_early and curve.best == curve.validation[0][1]
    assert torch.equal(objective.model.weight, torch.tensor([[1.0, -2.0, 0.5, 3.0]]))


@pytest.mark.parametrize("name", ["AdamW", "AdamW8bit"])
def test_a_run_that_was_killed_goes_on_and_ends_in_the_same_place(tmp_path, monkeypatch, name):
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    settings = Settings(epochs=3, rate=0.05, optimizer=name)
    whole = Line()
    expected = fit(whole, settings)

    def killed(step, steps, loss):
        if step == 31:
            raise KeyboardInterrupt

    checkpoint = Checkpoint(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), settings, checkpoint, killed)
    again = Line()
    curve = fit(again, settings, checkpoint)
    assert curve.resumed_at == 30
    torch.testing.assert_close(again.model.weight, whole.model.weight, rtol=1e-5, atol=1e-6)
    assert curve.best == pytest.approx(expected.best, rel=1e-4)
    assert not checkpoint.folder.exists()


def test_a_damaged_checkpoint_is_started_over(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run")
    checkpoint.write({"master.0": torch.ones(2)}, {"step": 3})
    (tmp_path / "run" / "state.safetensors").write_bytes(b"nonsense")
    assert checkpoint.read() is None
    assert fit(Line(), Settings(epochs=1), checkpoint).resumed_at == 0


def test_a_digest_tells_runs_apart():
    one = digest(["a", torch.ones(3)])
    assert one == digest(["a", torch.ones(3)]) and one != digest(["a", torch.zeros(3)]) and one != digest(["b"])


@pytest.mark.parametrize("report_to", ["none", "tensorboard"])
def test_losses_are_reported_where_it_was_asked(monkeypatch, report_to):
    asked, reported = [], []
    accelerate = module.need("accelerate", "diffusers", "Training")

    class Recorded(accelerate.Accelerator):
        def __init__(self, log_with=None, **options):
            super().__init__(**options)
            asked.append(log_with)

        def init_trackers(self, name, *_, **__):
            asked.append(name)

        def log(self, values, step=None, **_):
            reported.append((step, *values))

    monkeypatch.setattr(module, "need", lambda *_: SimpleNamespace(Accelerator=Recorded))
    fit(Line(), Settings(epochs=1, report_to=report_to))
    if report_to == "none":
        assert asked == [None] and not reported
    else:
        steps = [step for step, *names in reported if names == ["loss", "rate"]]
        assert asked == ["tensorboard", "gearshift"] and steps == sorted(steps) and len(steps) > 1
        assert any(names == ["validation"] for _, *names in reported)


class Placed(nn.Module):
    """A module that lies on a device by its own account."""

    def __init__(self, device):
        super().__init__()
        self.moves, self.place = [], SimpleNamespace(device=torch.device(device))

    def parameters(self, recurse=True):
        return iter([self.place])

    def to(self, device):
        self.moves.append(str(device))
        self.place = SimpleNamespace(device=torch.device(device))
        return self


@pytest.mark.parametrize("wanted", [True, False])
def test_other_parts_are_offloaded_while_the_denoiser_trains_and_come_back(monkeypatch, wanted):
    denoiser, encoder, elsewhere = Placed("cuda:0"), Placed("cuda:0"), Placed("cpu")
    pipe = {"denoiser": denoiser, "encoder": encoder, "vae": elsewhere}
    monkeypatch.setattr(diffusion, "parts", lambda pipe: pipe)
    monkeypatch.setattr(diffusion, "denoisers", lambda pipe: {"denoiser": pipe["denoiser"]})
    with pytest.raises(KeyboardInterrupt), diffusion.offloaded(pipe, wanted):
        assert str(encoder.place.device) == ("cpu" if wanted else "cuda:0")
        raise KeyboardInterrupt
    assert encoder.moves == (["cpu", "cuda:0"] if wanted else []) and not denoiser.moves + elsewhere.moves
