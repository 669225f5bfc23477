"""CPU kernels of our own: bf16, int8 and int4 weights over bf16 pages, with invariant rows."""
