"""Workers on other machines: the link between two hosts' agents, and what passes over it."""
