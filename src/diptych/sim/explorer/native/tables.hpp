// What the search knows of parts, messages, channels and events: numbers that Python gives out, and what
// becomes of them. Nothing here knows what a part is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace explorer {

using Words = std::vector<std::uint32_t>;

constexpr std::uint32_t NONE = 0xffffffff;
constexpr unsigned BUDGETS_MAX = 8;
constexpr unsigned CHANNEL_SHIFT = 20;
constexpr std::uint32_t MESSAGE_MASK = (1u << CHANNEL_SHIFT) - 1;

struct Fault {
    std::uint32_t event;
    std::uint32_t budget;
};

struct Cell {
    std::uint32_t shape = 0;
    Words pages;     // as the shape names them, in order
    Words free;      // free pages, the next one last
    Words books;     // of the pool, by page: whose it is and who reads it
    Words contents;  // of the pool, by page: what it holds
    Words moves;     // what comes by itself from this part
    std::vector<Fault> faults;
    bool waits = false;  // it has a deadline
    std::uint32_t attempts = 0;
};

struct Message {
    std::uint32_t shape = 0;
    Words pages;
    std::uint32_t echo = NONE;  // the same message once more, where it may be doubled
    bool joins = false;         // whoever gets it has a connection to control from then on
};

struct Channel {
    std::uint32_t to = 0;           // slot
    std::uint32_t arrive = NONE;    // event: its first message is delivered
    std::uint32_t twice = NONE;     // event: so it is, and comes once more
    std::uint32_t reverse = NONE;   // of a channel to control: the one from control to the same party
};

struct Event {
    std::uint32_t channel = NONE;
    std::uint32_t budget = NONE;
};

struct Outcome {
    std::vector<std::pair<std::uint32_t, std::uint32_t>> parts;  // (slot, cell)
    Words died;                                                  // slots
    Words sent;                                                  // packed (channel, message), in order
    bool hangs_up = false;  // control is gone with all that was on the way to it
};

struct Effect {
    std::vector<Outcome> outcomes;
    std::string broken;
};

struct Budgets {
    std::array<std::uint32_t, BUDGETS_MAX> faults{};
    std::uint32_t expiry = 0;   // which of them counts deadlines that come early
    std::uint32_t twice = 0;    // and which doubled messages
    std::uint32_t messages = 0;
    std::uint32_t attempts = 0;
};

// One global state. Each message is packed as channel << CHANNEL_SHIFT | number, sorted by channel; those of
// one channel keep their order.
struct State {
    std::uint32_t used = 0;  // four bits for each budget
    Words cells;             // by slot; 0 where nobody is
    Words messages;

    Words encode() const;
    static State decode(const std::uint32_t* words, std::size_t count);
};

inline std::uint32_t channel_of(std::uint32_t packed) { return packed >> CHANNEL_SHIFT; }
inline std::uint32_t message_of(std::uint32_t packed) { return packed & MESSAGE_MASK; }
inline std::uint32_t spent(std::uint32_t used, std::uint32_t budget) { return used >> (4 * budget) & 15u; }

struct WordsHash {
    std::size_t operator()(const Words& words) const;
};

struct Tables {
    std::vector<Cell> cells{Cell{}};
    std::vector<Message> messages;
    std::vector<Channel> channels;
    std::vector<Event> events;
    std::vector<Effect> effects;
    std::unordered_map<Words, std::uint32_t, WordsHash> effect_of;
    std::unordered_map<std::uint64_t, Words> touched;
    Budgets budgets;
    std::uint32_t control = 0;  // slots
    std::uint32_t pool = 0;
    std::uint32_t expire = NONE;  // event
};

}  // namespace explorer
