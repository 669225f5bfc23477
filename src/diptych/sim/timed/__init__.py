"""The machines of `core/` in virtual time with what things cost and nothing of what pages hold.

`sim.world` proves: it knows every token and page and checks what the machines promise. This room
measures: token counts, durations, bytes. Both drive the same machines through the same loop
(`sim.driver`), and a test holds their facts and actions against each other.
"""
