"""RAR's training loss: cross-entropy by its definition, draws by image, the schedule of random orders."""

import dataclasses

import pytest
import torch

from robustok.config import OrderConfig, RunConfig
from robustok.models.generators.rar import order_schedule, random_orders


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, 40, (6, 24), generator=draw)
    return tokens, torch.tensor([0, 1, 2, 3, 4, 4]), torch.tensor([7, 2**40, 3, 12, 1, 0])


def without_dropout(model, class_dropout=0.0):
    model.config = dataclasses.replace(model.config, class_dropout=class_dropout)
    return model


def by_hand(model, tokens, classes, orders) -> torch.Tensor:
    """Mean of -log p(token of order[i] | tokens of order[:i]), sequence by sequence, place by place."""
    logits = model(tokens, classes, orders).double().log_softmax(-1)
    return -torch.stack(
        [logits[b, i, tokens[b, place]] for b, order in enumerate(orders) for i, place in enumerate(order)]
    ).mean()


def test_raster_order(make_model, batch):
    model, (tokens, classes, ids) = without_dropout(make_model()), batch
    loss, terms = model.loss(tokens, classes, seed=1, sample_ids=ids)
    expected = by_hand(model, tokens, classes, torch.arange(24).expand(6, -1))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6) and loss.dtype == torch.float32
    right = model.logits(tokens, classes).argmax(-1) == tokens
    assert terms["accuracy"] == right.float().mean() and terms["loss"] is loss
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_random_orders_and_dropped_classes(make_model, batch):
    model, (tokens, classes, ids) = without_dropout(make_model(), 0.5), batch
    loss, _ = model.loss(tokens, classes, seed=1, sample_ids=ids, random_order_share=0.5)
    orders = random_orders(1, ids, 24, 0.5)
    shuffled = (orders != torch.arange(24)).any(1)
    assert 0 < shuffled.sum() < 6 and torch.equal(orders.sort(1).values, torch.arange(24).expand(6, -1))
    candidates = {  # which classes were dropped is not known from outside: one of the 64 choices fits
        round(by_hand(model, tokens, classes.masked_fill(dropped, 5), orders).item(), 5)
        for dropped in torch.cartesian_prod(*[torch.tensor([False, True])] * 6)
    }
    assert round(loss.item(), 5) in candidates
    assert round(by_hand(model, tokens, classes, orders).item(), 5) != round(loss.item(), 5)


def test_an_image_is_treated_alike_in_any_batch(make_model, batch):
    model, (tokens, classes, ids) = without_dropout(make_model(), 0.5), batch
    settings = {"seed": 5, "random_order_share": 0.5}
    whole, _ = model.loss(tokens, classes, sample_ids=ids, **settings)
    parts = [model.loss(*(x[i : i + 1] for x in batch[:2]), sample_ids=ids[i : i + 1], **settings)[0] for i in range(6)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-5, atol=0)
    other, _ = model.loss(tokens, classes, sample_ids=ids, **settings | {"seed": 6})
    assert other != whole


def test_schedule_goes_from_random_to_raster():
    run = RunConfig(order=OrderConfig(anneal_start=200.0, anneal_end=300.0))
    shares = [order_schedule(run, epoch)["random_order_share"] for epoch in (0, 200, 250, 300, 399)]
    assert shares == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])
