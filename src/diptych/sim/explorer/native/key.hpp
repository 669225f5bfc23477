// What equal states share: 128 bits over shapes, and over page numbers renamed by first use.
#pragma once

#include <cstdint>
#include <vector>

#include "tables.hpp"

namespace explorer {

struct Key {
    std::uint64_t low = 0, high = 0;
    bool operator==(const Key& other) const { return low == other.low && high == other.high; }
};

class KeyMaker {
public:
    Key of(const State& state, const Tables& tables);

private:
    void rename(const Words& pages);

    Key key_;
    Words names_;   // by page: its name plus one
    Words order_;   // pages by name
    Words rest_;
};

// Keys, each once.
class KeySet {
public:
    KeySet();
    bool add(const Key& key);  // whether it was new
    std::size_t size() const { return size_; }

private:
    void grow();

    std::vector<Key> slots_;
    std::size_t size_ = 0;
};

}  // namespace explorer
