// Breadth first over every event of every state, each state once.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "key.hpp"
#include "tables.hpp"

namespace explorer {

using Step = std::pair<std::uint32_t, std::uint32_t>;  // (event, which of its outcomes)

// What only the real machines know.
struct Machines {
    std::function<Words(std::uint32_t event, std::uint32_t message)> touched;
    std::function<Effect(std::uint32_t event, std::uint32_t message, const Words& slots, const Words& cells)>
        perform;
    std::function<std::string(const Words& cells)> quiet;  // what is broken, or ""
};

struct Result {
    std::uint64_t states = 1, transitions = 0, quiet = 0, beyond_messages = 0, beyond_attempts = 0;
    std::uint32_t depth = 0;
    bool complete = false;
    std::string broken;
    std::vector<Step> path;
};

class Search {
public:
    Search(Tables& tables, Machines machines) : tables_(tables), machines_(std::move(machines)) {}

    // Events that can come, faults within the budgets included.
    Words enabled(const State& state) const;
    const Effect& effect(const State& state, std::uint32_t event);
    State after(const State& state, std::uint32_t event, const Outcome& outcome) const;
    std::uint32_t message(const State& state, std::uint32_t event) const;

    // Stops at `states_max` states, or when `tick` (called now and then with the states that wait) says no.
    Result explore(const State& start, std::uint64_t states_max,
                   const std::function<bool(const Result&, std::uint64_t)>& tick);

private:
    struct Level {
        Words words;
        std::vector<std::size_t> begins;
        std::vector<std::uint32_t> numbers;
    };

    bool busy(const State& state) const;
    bool joining(const State& state, std::uint32_t channel, std::uint32_t delivered) const;
    std::uint32_t charged(const State& state, std::uint32_t event) const;
    bool within(const State& state, Result& result) const;
    bool expand(const State& state, std::uint32_t number, Result& result, Level& next);
    void reach(const State& reached, std::uint32_t number, Step step, Result& result, Level& next);
    void broke(std::uint32_t number, Step step, const std::string& why, Result& result) const;

    Tables& tables_;
    Machines machines_;
    KeyMaker keys_;
    KeySet seen_;
    std::vector<std::uint32_t> parents_;
    std::vector<Step> steps_;
};

}  // namespace explorer
