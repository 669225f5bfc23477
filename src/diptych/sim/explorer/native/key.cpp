#include "key.hpp"

#include <algorithm>

namespace explorer {
namespace {

constexpr std::size_t FIRST_SLOTS = 1 << 16;

std::uint64_t stirred(std::uint64_t value) {
    value ^= value >> 31;
    value *= 0xd6e8feb86659fd93ull;
    value ^= value >> 32;
    return value;
}

void feed(Key& key, std::uint64_t word) {
    key.low = stirred(key.low * 0x9e3779b97f4a7c15ull + word + 1);
    key.high = stirred((key.high ^ word) * 0xc2b2ae3d27d4eb4full + 0x165667b19e3779f9ull);
}

}  // namespace

std::size_t WordsHash::operator()(const Words& words) const {
    Key key;
    for (std::uint32_t word : words) feed(key, word);
    return static_cast<std::size_t>(key.low);
}

void KeyMaker::rename(const Words& pages) {
    for (std::uint32_t page : pages) {
        if (page >= names_.size()) names_.resize(page + 1, 0);
        if (!names_[page]) {
            order_.push_back(page);
            names_[page] = static_cast<std::uint32_t>(order_.size());
        }
        feed(key_, names_[page]);
    }
}

// No machine computes with a page's number; which free page is taken next is said by the order of the free
// list. What a free page holds is nobody's matter, whose it is counts.
Key KeyMaker::of(const State& state, const Tables& tables) {
    key_ = Key{};
    order_.clear();
    feed(key_, state.used);
    for (std::uint32_t slot = 0; slot < state.cells.size(); ++slot) {
        if (!state.cells[slot]) continue;
        const Cell& cell = tables.cells[state.cells[slot]];
        feed(key_, static_cast<std::uint64_t>(slot) << 32 | cell.shape);
        rename(cell.pages);
    }
    for (std::uint32_t packed : state.messages) {
        const Message& message = tables.messages[message_of(packed)];
        feed(key_, static_cast<std::uint64_t>(channel_of(packed) + 1) << 40 | message.shape);
        rename(message.pages);
    }
    const Cell& pool = tables.cells[state.cells[tables.pool]];
    for (std::uint32_t page : order_)
        feed(key_, static_cast<std::uint64_t>(pool.books[page]) << 32 | pool.contents[page]);
    for (std::uint32_t cell : state.cells) {
        std::size_t fresh = order_.size();
        rename(tables.cells[cell].free);
        for (; fresh < order_.size(); ++fresh) feed(key_, pool.books[order_[fresh]]);
    }
    rest_.clear();
    names_.resize(std::max(names_.size(), pool.books.size()), 0);
    for (std::size_t page = 0; page < pool.books.size(); ++page)
        if (!names_[page]) rest_.push_back(pool.books[page]);
    std::sort(rest_.begin(), rest_.end());
    for (std::uint32_t book : rest_) feed(key_, book);
    for (std::uint32_t page : order_) names_[page] = 0;
    return key_;
}

KeySet::KeySet() : slots_(FIRST_SLOTS) {}

bool KeySet::add(const Key& key) {
    if (2 * size_ >= slots_.size()) grow();
    std::size_t mask = slots_.size() - 1, slot = key.low & mask;
    while (!(slots_[slot] == Key{})) {
        if (slots_[slot] == key) return false;
        slot = (slot + 1) & mask;
    }
    slots_[slot] = key;
    ++size_;
    return true;
}

void KeySet::grow() {
    std::vector<Key> former(slots_.size() * 2);
    former.swap(slots_);
    std::size_t mask = slots_.size() - 1;
    for (const Key& key : former) {
        if (key == Key{}) continue;
        std::size_t slot = key.low & mask;
        while (!(slots_[slot] == Key{})) slot = (slot + 1) & mask;
        slots_[slot] = key;
    }
}

}  // namespace explorer
