"""The Bedrock runtime dialect: Converse and ConverseStream."""
