from __future__ import annotations

from hashlib import blake2b

from diptych.wire.hashing import HASH_BYTES, chain_root, page_hashes, shared_pages


def test_a_hash_is_that_of_its_predecessor_and_the_tokens() -> None:
    root = chain_root("model")
    tokens = list(range(10))
    first = blake2b(root + b"".join(t.to_bytes(4, "little") for t in tokens[:4]), digest_size=16).digest()
    second = blake2b(first + b"".join(t.to_bytes(4, "little") for t in tokens[4:8]), digest_size=16).digest()
    assert page_hashes(root, tokens, 4) == (first, second)
    assert page_hashes(first, tokens[4:], 4) == (second,)
    assert page_hashes(root, tokens[:3], 4) == ()


def test_roots_differ_in_every_field_and_no_two_triples_run_together() -> None:
    triples = [("m", "", ""), ("m", "a", ""), ("m", "", "a"), ("ma", "", ""), ("", "ma", ""), ("n", "", "")]
    roots = {chain_root(*triple) for triple in triples}
    assert len(roots) == len(triples)
    assert all(len(root) == HASH_BYTES for root in roots)


def test_the_last_prompt_token_is_in_no_shared_page() -> None:
    assert [shared_pages(n, 16) for n in (1, 16, 17, 32, 33)] == [0, 0, 1, 1, 2]
