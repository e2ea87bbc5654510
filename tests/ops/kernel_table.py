"""The Triton kernels with the arguments, constants and options that they are compiled with, without a GPU.

Read by compile_triton.py, which compiles them, and by the tests of what came out.
"""

P32, P64, F32, F64, F16, BF16 = "*i32", "*i64", "*fp32", "*fp64", "*fp16", "*bf16"
TILE = {"SPLIT": True, "PRODUCT": False, "BLOCK_K": 64, "BLOCK_D": 64}
ONE_COORDINATE = {"D": 1, "BLOCK_D": 16}
SCORED = {"u": F32, "high": F16, "low": F16, "bias": F32, "limits": F32}
CODES = SCORED | {"codebook": BF16, "rows": F32, "transposed": F32, "tile_numbers": P32}
NEAREST = SCORED | {"tile_numbers": P32, "entries": P32, "tied": P32, "tied_count": P32}
RESOLVE = {"u": F32, "transposed": F32, "out": P64, "tied": P32, "tied_count": P32}
FEW = {"u": F32, "rows": F32, "transposed": F32, "out": P64, "entries": P32}
SELECT = SCORED | {"transposed": F32, "ranks": P32, "out": P64, "scratch": F32, "errors": F32}
SELECT |= {"listed": P32, "listed_count": P32}
TOP = SCORED | {"tile_numbers": P32, "ranks": P32, "entries": P32, "listed": P32, "listed_count": P32}
TOP |= {"found_entries": P32, "tied": P32, "tied_count": P32}
NOT_NEAREST = dict.fromkeys(("found_entries", "tied", "tied_count"))
PLAIN = {"high": F32}  # rows that are not of unit length
NO_LOW = {"low": None}
PRODUCTS = {"SPLIT": False, "PRODUCT": True}
CANDIDATES = SCORED | {"tile_numbers": P32, "found": P32, "counts": P32, "listed": P32, "listed_count": P32}
ORDER = {"u": F32, "rows": F32, "out": P64, "found": P32, "counts": P32, "distances": P64}
REST = {"u": F32, "transposed": F32, "out": P64, "listed": P32, "listed_count": P32}
FINISH = {"u": F32, "codes": F32, "nearest": P64, "indices": P64, "z_q": BF16, "z_q_clean": BF16, "usage": P64}
FINISH |= {"partial": F64}
BACKWARD = {"z": BF16, "first": BF16, "second": BF16, "codes": F32, "nearest": P64, "vq": F32, "commit": F32}
BACKWARD |= {"dz": BF16, "de": F64, "scale": "fp32"}
BACKWARD |= {f"{tensor}_{d}": "i64" for tensor in ("z", "first", "second") for d in "bld"}
LOOKUP = TILE | {"TILES": 64, "WIDE": False, "GROUP": 2, "BLOCK_N": 128}
TOP_SELECTION = TILE | {"BLOCK_N": 32, "CANDIDATES": 8, "TILES": 64, "WIDE": False}
HIGH_RANKS = {"BLOCK_K": 128, "BLOCK_N": 16}
CANDIDATE_SEARCH = TILE | {"TILES": 64, "WIDE": False, "BLOCK_N": 16, "LEVELS": 12, "ROOM": 128}
MANY = {"BLOCK_K": 128, "TILES": 128, "ROOM": 512}
SELECTION = TILE | {"BLOCK_N": 16, "ROWS": 4, "BLOCK": 4096}
ATTENTION = {"query": BF16, "keys": BF16, "values": BF16, "places": P64, "out": BF16, "scale": "fp32"}
ONE_QUERY = {"BLOCK_T": 32, "BLOCK_W": 16}
NORMS, ROTATION = ("query_weight", "query_bias", "key_weight", "key_bias"), ("cos", "sin")
APPEND = (
    ATTENTION
    | {"key": BF16, "value": BF16, "epsilon": "fp32"}
    | dict.fromkeys(NORMS, BF16)
    | dict.fromkeys(ROTATION, F32)
)
NOTHING_NEW = dict.fromkeys(("key", "value", *NORMS, *ROTATION)) | {"epsilon": 0.0, "ahead": 0}
LINEAR = dict.fromkeys(("x", "weight", "second", "bias", "factor", "shift", "residual", "gate", "out"), BF16)
LINEAR |= {"picked": P64, "epsilon": "fp32"}
NORMED = dict.fromkeys(("second", "residual", "gate")) | {"K": 1024, "CENTERED": True, "GELU": True}
NORMED |= {"BLOCK_M": 8, "BLOCK_N": 32, "BLOCK_K": 512, "BLOCK_S": 512}
TWO_WEIGHTS = dict.fromkeys(("bias", "shift", "residual", "gate", "picked")) | {"CENTERED": False, "GELU": False}
TWO_WEIGHTS |= {"K": 1024, "BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 512, "BLOCK_S": 512}
RESIDUAL = dict.fromkeys(("second", "factor", "shift")) | {"K": 4096, "CENTERED": False, "GELU": False}
RESIDUAL |= {"BLOCK_M": 2, "BLOCK_N": 8, "BLOCK_K": 512, "BLOCK_S": 1024}
ROWS = {"BLOCK_N": 64, "BLOCK_D": 64}
POOL = {"BLOCK_P": 32, "BLOCK_C": 64}
# By name: the kernel, types of its arguments (i32 where none is given), constants. A number that is 1 is a constant,
# and so is a pointer that is None.
KERNELS = {
    "normalize rows": (
        "rows._normalize_rows_kernel",
        {"z": BF16, "out": F32, "stride_b": "i64", "stride_l": "i64", "stride_d": "i64", "first": "i64"},
        {"BLOCK_N": 64, "BLOCK_D": 32, "NORMALIZE": True},
    ),
    "codes": ("codes._prepare_kernel", CODES, {"NORMALIZE": True, "PRODUCT": False, "BLOCK_K": 64, "BLOCK_D": 64}),
    "codes, one coordinate": (
        "codes._prepare_kernel",
        CODES | PLAIN,
        NO_LOW | ONE_COORDINATE | {"NORMALIZE": False, "PRODUCT": True, "BLOCK_K": 64},
    ),
    "nearest": ("nearest._nearest_kernel", NEAREST, LOOKUP),
    "nearest, wide": ("nearest._nearest_kernel", NEAREST, LOOKUP | {"WIDE": True}),
    "nearest, any length": ("nearest._nearest_kernel", NEAREST | PLAIN, LOOKUP | {"SPLIT": False, "BLOCK_N": 32}),
    "nearest, products": ("nearest._nearest_kernel", NEAREST | PLAIN, LOOKUP | PRODUCTS | {"BLOCK_N": 32}),
    "nearest, one coordinate": ("nearest._nearest_kernel", NEAREST, LOOKUP | ONE_COORDINATE),
    "resolve ties": (
        "nearest._resolve_ties_kernel",
        RESOLVE,
        {"PRODUCT": False, "TILES": 64, "BLOCK_K": 64, "GROUP": 2},
    ),
    "resolve ties, products": (
        "nearest._resolve_ties_kernel",
        RESOLVE,
        {"PRODUCT": True, "TILES": 64, "BLOCK_K": 64, "GROUP": 2},
    ),
    "settle few": (
        "settle._settle_kernel",
        FEW,
        {"PRODUCT": False, "BASES": 2, "GROUP": 2, "BLOCK_N": 32, "BLOCK_D": 16},
    ),
    "settle few, products": (
        "settle._settle_kernel",
        FEW,
        {"PRODUCT": True, "BASES": 2, "GROUP": 2, "BLOCK_N": 32, "BLOCK_D": 16},
    ),
    "select": ("select._select_kernel", SELECT, SELECTION),
    "select, any length": ("select._select_kernel", SELECT | PLAIN, SELECTION | NO_LOW | {"SPLIT": False}),
    "select, products": ("select._select_kernel", SELECT | PLAIN, SELECTION | NO_LOW | PRODUCTS),
    "select, one coordinate": ("select._select_kernel", SELECT, SELECTION | ONE_COORDINATE),
    "select top": ("select_top._select_top_kernel", TOP, TOP_SELECTION),
    "select top, of codes": ("select_top._select_top_kernel", TOP, TOP_SELECTION | NOT_NEAREST),
    "select top, high ranks": ("select_top._select_top_kernel", TOP, TOP_SELECTION | HIGH_RANKS),
    "select top, products": (
        "select_top._select_top_kernel",
        TOP | PLAIN,
        TOP_SELECTION | PRODUCTS,
    ),
    "settle": (
        "settle._settle_kernel",
        FEW,
        {"PRODUCT": False, "BASES": 8, "GROUP": 1, "BLOCK_N": 32, "BLOCK_D": 16},
    ),
    "select, many codes": ("select._select_kernel", SELECT, SELECTION | {"ROWS": 1, "BLOCK": 1 << 15}),
    "candidates": ("neighbors._candidates_kernel", CANDIDATES, CANDIDATE_SEARCH),
    "candidates, wide": ("neighbors._candidates_kernel", CANDIDATES, CANDIDATE_SEARCH | {"WIDE": True}),
    "candidates, many": ("neighbors._candidates_kernel", CANDIDATES, CANDIDATE_SEARCH | MANY),
    "candidates, products": ("neighbors._candidates_kernel", CANDIDATES | PLAIN, CANDIDATE_SEARCH | PRODUCTS),
    "candidates, one coordinate": ("neighbors._candidates_kernel", CANDIDATES, CANDIDATE_SEARCH | ONE_COORDINATE),
    "order": ("neighbors._order_kernel", ORDER, {"PRODUCT": False, "ROOM": 128}),
    "order, products": ("neighbors._order_kernel", ORDER, {"PRODUCT": True, "ROOM": 256}),
    "order, many": ("neighbors._order_kernel", ORDER, {"PRODUCT": False, "ROOM": 512}),
    "neighbors of the rest": ("neighbors._rest_kernel", REST, {"PRODUCT": False, "BLOCK": 4096}),
    "neighbors of the rest, products": ("neighbors._rest_kernel", REST, {"PRODUCT": True, "BLOCK": 4096}),
    "draw": (
        "draw._draw_kernel",
        {"ids": P64, "threshold": P64, "delta": P64, "seed": P64, "out": P32, "first": "i64"},
        {"BLOCK": 256},
    ),
    "finish": ("quantize._finish_kernel", FINISH, ROWS),
    "straight-through": (
        "quantize._finish_kernel",
        FINISH,
        ROWS | dict.fromkeys(("nearest", "z_q_clean", "partial", "usage")),
    ),
    "backward": ("quantize._backward_kernel", BACKWARD, ROWS | {"NORMALIZE": True}),
    "backward of latents": (
        "quantize._backward_kernel",
        BACKWARD,
        ROWS
        | {"NORMALIZE": True}
        | dict.fromkeys(("second", "second_b", "second_l", "second_d", "codes", "nearest", "vq", "commit", "de")),
    ),
    "attention, one query": (
        "attention._one_query_kernel",
        ATTENTION,
        ONE_QUERY | NOTHING_NEW | {"WIDTH": 64, "PARTS": 4},
    ),
    "attention, new place": (
        "attention._one_query_kernel",
        APPEND,
        ONE_QUERY | dict.fromkeys(ROTATION) | {"WIDTH": 64, "PARTS": 4},
    ),
    "attention, new place of 48": (
        "attention._one_query_kernel",
        APPEND,
        ONE_QUERY | dict.fromkeys(ROTATION) | {"WIDTH": 48, "PARTS": 3},
    ),
    "attention, new place turned": (
        "attention._one_query_kernel",
        APPEND,
        ONE_QUERY | dict.fromkeys(NORMS) | {"WIDTH": 64, "PARTS": 4},
    ),
    "attention, few queries": (
        "attention._few_queries_kernel",
        ATTENTION,
        {"BLOCK_N": 16, "BLOCK_T": 64, "BLOCK_W": 64},
    ),
    "linear, normed": ("linear._linear_kernel", LINEAR, NORMED),
    "linear, odd width": ("linear._linear_kernel", LINEAR, NORMED | {"K": 1000}),
    "linear, two weights": ("linear._linear_kernel", LINEAR, TWO_WEIGHTS),
    "linear, residual": ("linear._linear_kernel", LINEAR, RESIDUAL),
    "guided sample": (
        "sampling._guided_sample_kernel",
        {"logits": F32, "scales": F32, "samples": P64, "steps": P64, "seed": P64, "out": P64}
        | {"temperature": "fp32", "top_p": "fp32"},
        {"STREAM": 1, "GUIDED": True, "TOP_K": True, "TOP_P": True, "GROUPS": 1024},
    ),
    "inception input": (
        "inception_input._inception_input_kernel",
        {"images": "*u8", "out": F16, "ratio_y": "fp32", "ratio_x": "fp32"},
        {"side": 299, "channels": 8, "BLOCK": 1024},
    ),
    "max pool": ("pooling._max_pool_kernel", {"x": F16, "out": F16}, POOL),
    "split, ReLU": ("pooling._split_relu_kernel", {"x": F16, "bias": F16, "out": F16}, POOL),
}
# As launched: warps, by the first word of a kernel's name, where they are not Triton's four; and what else is given.
WARPS = {"nearest": 8, "select": 8, "guided": 8, "normalize": 2, "attention": 2, "resolve": 1}
OPTIONS = {
    "nearest": {"maxnreg": 128},
    "select, many codes": {"num_warps": 16},
    "select top, high ranks": {"num_stages": 2},
    "candidates, many": {"num_warps": 8},
    "order, products": {"num_warps": 8},
    "order, many": {"num_warps": 16},
    "attention, few queries": {"num_warps": 4},
    "linear, normed": {"num_stages": 2},
    "linear, odd width": {"num_stages": 2},
    "linear, two weights": {"num_warps": 8, "num_stages": 1},
    "linear, residual": {"num_warps": 2, "num_stages": 3},
}
SIZES = {"D", "K", "Kp", "Dp", "R", "L", "count", "stride_b", "stride_l"}  # multiples of 16 at every published shape
SIZES |= {"C", "second", "third", "fourth", "averaged"}
SIZES |= {f"{tensor}_stride_{dimension}" for tensor in ("query", "key") for dimension in "sht"}
SIZES |= {"columns", "x_stride", "residual_stride", "factor_stride", "gate_stride"}
# Kernels whose machine code is bounded, with more of their arguments as they are at the published shapes.
LAUNCHED: dict[str, dict[str, int]] = {"normalize rows": {"stride_d": 1}}
LAUNCHED |= {
    name: {}
    for name in (
        *("nearest", "settle few", "select top", "settle", "candidates", "order", "finish"),
        *("select top, high ranks", "candidates, many", "order, many", "attention, new place"),
        *("attention, new place of 48", "linear, normed", "linear, two weights", "linear, residual", "guided sample"),
        *("inception input", "max pool", "split, ReLU"),
    )
}
EXACT = ("normalize rows", "settle few", "settle", "order", "order, many")  # launched without fused multiply-add
VARIANTS = ((80, 1), (90, 1), (90, 16))  # GPU generation, and of what pointers and sizes are multiples
