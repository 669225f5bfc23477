"""The OpenAI dialect: requests and documents of chat completions and completions."""
