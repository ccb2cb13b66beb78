"""OpenAI's API over the models of this process."""
