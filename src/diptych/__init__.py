"""Disaggregated LLM inference for unlike accelerators: any chip for prefill, any chip for decode."""
