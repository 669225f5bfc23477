"""Who asks what and when: synthetic traffic, conversations, and traces of real services."""
