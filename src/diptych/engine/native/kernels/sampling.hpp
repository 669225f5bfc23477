// From a row of logits to a token. Rules and their order are in diptych/engine/sampling.py.
#pragma once
#include "step.hpp"

#include <unordered_map>
#include <utility>

namespace diptych {

struct SamplingOptions {
    double temperature = 0;
    int top_k = 0;
    double top_p = 1, min_p = 0;
    double repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
    std::vector<std::pair<int, float>> bias;
    int logprobs = -1; // -1: none
    uint64_t seed = 0;
    uint32_t choice = 0;

    void check() const; // throws std::invalid_argument naming the field and its limit
};

using Ranked = std::vector<std::pair<int, double>>; // token, log-probability

struct Sample {
    int token = 0;
    double logprob = 0;
    Ranked top;
};

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
// In [0, 1) with 53 bits: a function of its arguments alone.
double uniform(uint64_t seed, uint32_t choice, uint64_t output_index);

class Sampler {
  public:
    Sampler(const SamplingOptions &options, const std::vector<int> &prompt, const std::vector<int> &emitted);

    // Throws std::domain_error where the row holds no finite logit.
    Sample sample(const float *row, int vocabulary, uint64_t output_index, const Variant &variant) const;
    void record(int token); // an output token, for the penalties
    const SamplingOptions &options() const { return options_; }

  private:
    bool penalises() const;
    bool changes_logits() const { return penalises() || !options_.bias.empty(); }
    void adjust(float *row, int vocabulary) const;
    int draw(const float *row, int vocabulary, uint64_t output_index, const Variant &variant) const;

    SamplingOptions options_;
    std::unordered_map<int, int> seen_; // token of prompt or output: how often in the output
};

// Log-probability of `target` and the `top` most likely tokens of a row, ties to the lowest id.
Sample score_row(const float *row, int vocabulary, int target, int top, const Variant &variant);

} // namespace diptych
