#include "sampling.hpp"

#include "rounding.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace diptych {

namespace {

constexpr double kGreedyBelow = 1e-5; // a temperature that only the most likely token survives
constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLikely = 0x1p-12f; // of the most likely token's probability; a first guess at top-p

void require(bool good, const char *message) {
    if (!good) throw std::invalid_argument(message);
}

struct Candidate {
    float power;
    int token;
};
// Most likely first, ties to the lowest id: a total order, so that a cut through it is well defined.
bool before(const Candidate &a, const Candidate &b) {
    return a.power > b.power || (a.power == b.power && a.token < b.token);
}

std::vector<Candidate> at_least(const float *power, int count, float least) {
    std::vector<Candidate> out;
    for (int i = 0; i < count; ++i)
        if (power[i] >= least && power[i] > 0) out.push_back({power[i], i});
    return out;
}

double mass(const std::vector<Candidate> &set) {
    double total = 0;
    for (const Candidate &one : set) total += one.power;
    return total;
}

void keep_top_k(std::vector<Candidate> &set, int k) {
    if (k <= 0 || size_t(k) >= set.size()) return;
    std::nth_element(set.begin(), set.begin() + k, set.end(), before);
    set.resize(size_t(k));
}

// The fewest most likely candidates whose mass reaches `wanted`: a selection by mass, not a sort.
void keep_mass(std::vector<Candidate> &set, double wanted) {
    size_t first = 0, last = set.size();
    double taken = 0;
    while (last - first > 1) {
        size_t middle = first + (last - first) / 2;
        std::nth_element(set.begin() + first, set.begin() + middle, set.begin() + last, before);
        double upper = 0;
        for (size_t i = first; i < middle; ++i) upper += set[i].power;
        if (taken + upper >= wanted) last = middle;
        else taken += upper, first = middle;
    }
    set.resize(std::max<size_t>(last, 1));
}

int argmax(const float *row, int count, const Variant &variant) {
    float most = variant.greatest(row, size_t(count));
    if (!std::isfinite(most)) throw std::domain_error("the row holds no finite greatest logit");
    return int(std::find(row, row + count, most) - row);
}

int at_mass(const std::vector<Candidate> &set, double target) {
    double total = 0;
    for (const Candidate &one : set) {
        total += one.power;
        if (total > target) return one.token;
    }
    return set.back().token;
}

int at_mass(const float *power, int count, double target) {
    double total = 0;
    int last = 0;
    for (int i = 0; i < count; ++i) {
        if (power[i] <= 0) continue;
        total += power[i], last = i;
        if (total > target) return i;
    }
    return last;
}

Ranked most_likely(const float *row, int count, int top) {
    std::vector<Candidate> best; // few: insertion into a sorted list
    float least = -std::numeric_limits<float>::infinity();
    for (int i = 0; i < count && top > 0; ++i) {
        if (!(row[i] > least)) continue;
        Candidate one{row[i], i};
        best.insert(std::upper_bound(best.begin(), best.end(), one, before), one);
        if (int(best.size()) > top) best.pop_back();
        if (int(best.size()) == top) least = best.back().power;
    }
    Ranked out;
    for (const Candidate &one : best) out.emplace_back(one.token, one.power);
    return out;
}

} // namespace

void SamplingOptions::check() const {
    // Written so that NaN fails.
    require(temperature >= 0 && temperature <= 100, "temperature: must be 0 to 100");
    require(top_k >= 0, "top_k: must be 0 (all) or more");
    require(top_p >= 0 && top_p <= 1, "top_p: must be 0 to 1");
    require(min_p >= 0 && min_p <= 1, "min_p: must be 0 to 1");
    require(repetition_penalty >= 0.01 && repetition_penalty <= 100,
            "repetition_penalty: must be 0.01 to 100");
    require(std::fabs(frequency_penalty) <= 100, "frequency_penalty: must be -100 to 100");
    require(std::fabs(presence_penalty) <= 100, "presence_penalty: must be -100 to 100");
    require(logprobs >= -1 && logprobs <= 20, "logprobs: must be None or 0 to 20");
    for (const auto &[token, value] : bias) {
        require(token >= 0, "logit_bias: a token id must be 0 or more");
        require(std::fabs(value) <= 1000, "logit_bias: a bias must be -1000 to 1000");
    }
}

void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]}, k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t a = uint64_t(0xD2511F53u) * c[0], b = uint64_t(0xCD9E8D57u) * c[2];
        uint32_t next[4] = {uint32_t(b >> 32) ^ c[1] ^ k0, uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ k1,
                            uint32_t(a)};
        std::memcpy(c, next, sizeof c);
    }
    std::memcpy(out, c, sizeof c);
}

double uniform(uint64_t seed, uint32_t choice, uint64_t output_index) {
    uint32_t counter[4] = {uint32_t(output_index), uint32_t(output_index >> 32), choice, 0};
    uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)}, out[4];
    philox(counter, key, out);
    uint64_t word = uint64_t(out[0]) << 32 | out[1];
    return double(word >> 11) * 0x1p-53;
}

Sampler::Sampler(const SamplingOptions &options, const std::vector<int> &prompt,
                 const std::vector<int> &emitted)
    : options_(options) {
    options_.check();
    if (!penalises()) return;
    for (int token : prompt) seen_.emplace(token, 0);
    for (int token : emitted) record(token);
}

bool Sampler::penalises() const {
    return options_.repetition_penalty != 1 || options_.frequency_penalty != 0 ||
           options_.presence_penalty != 0;
}

void Sampler::record(int token) {
    if (penalises()) ++seen_[token];
}

void Sampler::adjust(float *row, int vocabulary) const {
    float repetition = float(options_.repetition_penalty), frequency = float(options_.frequency_penalty),
          presence = float(options_.presence_penalty);
    for (const auto &[token, count] : seen_) {
        if (token < 0 || token >= vocabulary) continue;
        float &logit = row[token];
        logit = logit > 0 ? logit / repetition : logit * repetition;
        if (count > 0) logit = logit - float(count) * frequency - presence;
    }
    for (const auto &[token, value] : options_.bias)
        if (token < vocabulary) row[token] += value;
}

int Sampler::draw(const float *row, int vocabulary, uint64_t output_index, const Variant &variant) const {
    if (options_.temperature < kGreedyBelow) return argmax(row, vocabulary, variant);
    float most = variant.greatest(row, size_t(vocabulary));
    if (!std::isfinite(most)) throw std::domain_error("the row holds no finite greatest logit");
    thread_local std::vector<float> power;
    power.resize(size_t(vocabulary));
    float factor = kLog2E / float(options_.temperature), least = float(options_.min_p);
    double total = variant.powers(row, size_t(vocabulary), most, factor, power.data());
    double random = uniform(options_.seed, options_.choice, output_index);
    if (options_.top_k == 0 && options_.top_p >= 1 && options_.min_p <= 0)
        return at_mass(power.data(), vocabulary, random * total);

    std::vector<Candidate> set = at_least(power.data(), vocabulary, std::max(least, kLikely));
    // Enough when the cut lies among them: what is less likely changes only the mass top-p refers to.
    bool enough = least >= kLikely || (options_.top_k > 0 && int(set.size()) >= options_.top_k) ||
                  (options_.top_k == 0 && least <= 0 && mass(set) >= options_.top_p * total);
    if (!enough) set = at_least(power.data(), vocabulary, least);
    keep_top_k(set, options_.top_k);
    bool whole = options_.top_k == 0 && least <= 0;
    if (options_.top_p < 1) keep_mass(set, options_.top_p * (whole ? total : mass(set)));
    std::sort(set.begin(), set.end(), [](const Candidate &a, const Candidate &b) { return a.token < b.token; });
    return at_mass(set, random * mass(set));
}

Sample Sampler::sample(const float *row, int vocabulary, uint64_t output_index,
                       const Variant &variant) const {
    RoundToNearest mode;
    Sample out;
    if (!changes_logits()) {
        out.token = draw(row, vocabulary, output_index, variant);
    } else {
        thread_local std::vector<float> adjusted;
        adjusted.assign(row, row + vocabulary);
        adjust(adjusted.data(), vocabulary);
        out.token = draw(adjusted.data(), vocabulary, output_index, variant);
    }
    if (options_.logprobs >= 0) return score_row(row, vocabulary, out.token, options_.logprobs, variant);
    return out;
}

Sample score_row(const float *row, int vocabulary, int target, int top, const Variant &variant) {
    RoundToNearest mode;
    float most = variant.greatest(row, size_t(vocabulary));
    if (!std::isfinite(most)) throw std::domain_error("the row holds no finite greatest logit");
    double total = variant.powers(row, size_t(vocabulary), most, kLog2E, nullptr);
    double shift = double(most) + std::log(total);
    Sample out;
    out.token = target;
    out.logprob = double(row[target]) - shift;
    out.top = most_likely(row, vocabulary, top);
    for (auto &entry : out.top) entry.second -= shift;
    return out;
}

} // namespace diptych
