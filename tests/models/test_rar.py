"""What RAR says of itself."""


def test_cache_bytes(make_model):
    """Every new place reads all places up to itself, in both streams: counted one by one."""
    model = make_model(num_tokens=24)  # 2 layers, 32 wide, float32
    assert model.cache_bytes(2) == sum(2 * 2 * 2 * 32 * 4 * (place + 1) for place in range(25))
