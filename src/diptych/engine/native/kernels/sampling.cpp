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

double mass(const std::vector<Candidate> &set) {
    double total = 0;
    for (const Candidate &one : set) total += one.power;
    return total;
}

// Probabilities of a row, relative to the greatest, and their sums by chunk.
struct Powers {
    std::vector<float> power;
    std::vector<double> chunks;

    void compute(const float *row, int count, float most, float factor, const Variant &variant) {
        power.resize(size_t(count));
        chunks.resize((size_t(count) + kChunk - 1) / kChunk);
        variant.powers(row, size_t(count), most, factor, power.data(), chunks.data());
    }
    double total() const {
        double sum = 0;
        for (double chunk : chunks) sum += chunk;
        return sum;
    }
};

// Counts and masses of probabilities by their exponent and five bits of fraction, so that a cut by rank
// or by mass looks closely at one bucket only; the vocabulary is never sorted.
class Histogram {
  public:
    Histogram(const std::vector<float> &power, float least) : power_(power), least_(least) {
        for (float value : power)
            if (holds(value)) {
                Bucket &bucket = buckets_[index(value)];
                bucket.count += 1, bucket.mass += value;
            }
    }

    // The least likely of the `k` most likely candidates.
    Candidate cut_by_rank(int k) const {
        int above = 0, at = kBuckets - 1;
        for (; at > 0 && above + buckets_[at].count < k; --at) above += buckets_[at].count;
        std::vector<Candidate> set = bucket(at, kAll);
        if (k - above > int(set.size())) return kAll; // fewer candidates than k
        std::nth_element(set.begin(), set.begin() + (k - above - 1), set.end(), before);
        return set[size_t(k - above - 1)];
    }

    // The last of the fewest most likely candidates, none of them after `cut`, that reach a share of all
    // their mass.
    Candidate cut_by_share(double share, const Candidate &cut) const {
        int lowest = std::isinf(cut.power) ? 0 : index(cut.power);
        double wanted = lowest > 0 ? mass(bucket(lowest, cut)) : buckets_[0].mass, above = 0;
        for (int i = kBuckets - 1; i > lowest; --i) wanted += buckets_[i].mass;
        wanted *= share;
        int at = kBuckets - 1;
        for (; at > lowest && (buckets_[at].count == 0 || above + buckets_[at].mass < wanted); --at)
            above += buckets_[at].mass;
        std::vector<Candidate> set = bucket(at, cut);
        return set.empty() ? cut : last_of_mass(set, wanted - above);
    }

    std::vector<Candidate> candidates(const Candidate &cut) const { // by token id
        std::vector<Candidate> out;
        for (int i = 0; i < int(power_.size()); ++i)
            if (holds(power_[size_t(i)]) && !after(cut, i)) out.push_back({power_[size_t(i)], i});
        return out;
    }

    static constexpr Candidate kAll{-std::numeric_limits<float>::infinity(), 0};

  private:
    static constexpr int kShift = 18, kBuckets = (127 << 5) + 1; // powers are at most 1, the greatest's
    struct Bucket {
        int count = 0;
        double mass = 0;
    };
    static int index(float value) {
        uint32_t raw;
        std::memcpy(&raw, &value, 4);
        return std::min(int(raw >> kShift), kBuckets - 1);
    }
    static float bound(int at) { // the least value of a bucket
        uint32_t raw = uint32_t(at) << kShift;
        float value;
        std::memcpy(&value, &raw, 4);
        return value;
    }
    bool holds(float value) const { return value >= least_ && value > 0; }
    bool after(const Candidate &cut, int token) const { return before(cut, {power_[size_t(token)], token}); }

    std::vector<Candidate> bucket(int at, const Candidate &cut) const {
        std::vector<Candidate> out;
        if (buckets_[at].count == 0) return out;
        float low = bound(at), high = at + 1 < kBuckets ? bound(at + 1) : 2.0f;
        for (int i = 0; i < int(power_.size()); ++i) {
            float value = power_[size_t(i)];
            if (value >= low && value < high && holds(value) && !after(cut, i)) out.push_back({value, i});
        }
        return out;
    }

    static Candidate last_of_mass(std::vector<Candidate> &set, double wanted) {
        size_t first = 0, last = set.size();
        double taken = 0;
        while (last - first > 1) { // selection by mass: halves shrink, so the work is linear
            size_t middle = first + (last - first) / 2;
            std::nth_element(set.begin() + first, set.begin() + middle, set.begin() + last, before);
            double upper = 0;
            for (size_t i = first; i < middle; ++i) upper += set[i].power;
            if (taken + upper >= wanted) last = middle;
            else taken += upper, first = middle;
        }
        return set[first];
    }

    const std::vector<float> &power_;
    float least_;
    Bucket buckets_[kBuckets];
};

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

int at_mass(const Powers &p, double target) {
    double total = 0;
    size_t chunk = 0;
    while (chunk + 1 < p.chunks.size() && total + p.chunks[chunk] <= target) total += p.chunks[chunk++];
    size_t last = chunk * kChunk, end = std::min(last + kChunk, p.power.size());
    for (size_t i = last; i < end; ++i) {
        if (p.power[i] <= 0) continue;
        total += p.power[i], last = i;
        if (total > target) break;
    }
    return int(last);
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
    thread_local Powers powers;
    powers.compute(row, vocabulary, most, kLog2E / float(options_.temperature), variant);
    double random = uniform(options_.seed, options_.choice, output_index);
    if (options_.top_k == 0 && options_.top_p >= 1 && options_.min_p <= 0)
        return at_mass(powers, random * powers.total());

    Histogram histogram(powers.power, float(options_.min_p));
    Candidate cut = Histogram::kAll;
    if (options_.top_k > 0) cut = histogram.cut_by_rank(options_.top_k);
    if (options_.top_p < 1) cut = histogram.cut_by_share(options_.top_p, cut);
    std::vector<Candidate> set = histogram.candidates(cut);
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
    thread_local Powers powers;
    powers.compute(row, vocabulary, most, kLog2E, variant);
    double shift = double(most) + std::log(powers.total());
    Sample out;
    out.token = target;
    out.logprob = double(row[target]) - shift;
    out.top = most_likely(row, vocabulary, top);
    for (auto &entry : out.top) entry.second -= shift;
    return out;
}

} // namespace diptych
