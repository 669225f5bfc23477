"""The simulator: the machines of `core/` under virtual time. Only `perform(action)` differs from `live/`.

Nothing here decides where a request goes, who owns a page or what runs next; it only answers actions
with facts, and checks the answers of the machines against books of its own.
"""
