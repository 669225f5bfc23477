#include "search.hpp"

#include <algorithm>

namespace explorer {
namespace {

constexpr std::uint64_t TICK_STATES = 4096;

}  // namespace

Words State::encode() const {
    Words words{used, static_cast<std::uint32_t>(cells.size())};
    words.insert(words.end(), cells.begin(), cells.end());
    words.insert(words.end(), messages.begin(), messages.end());
    return words;
}

State State::decode(const std::uint32_t* words, std::size_t count) {
    State state;
    state.used = words[0];
    state.cells.assign(words + 2, words + 2 + words[1]);
    state.messages.assign(words + 2 + words[1], words + count);
    return state;
}

bool Search::busy(const State& state) const {
    if (!state.messages.empty()) return true;
    for (std::uint32_t cell : state.cells)
        if (!tables_.cells[cell].moves.empty()) return true;
    return false;
}

std::uint32_t Search::message(const State& state, std::uint32_t event) const {
    std::uint32_t channel = tables_.events[event].channel;
    if (channel == NONE) return NONE;
    for (std::uint32_t packed : state.messages)
        if (channel_of(packed) == channel) return message_of(packed);
    return NONE;
}

Words Search::enabled(const State& state) const {
    Words events;
    const Budgets& budgets = tables_.budgets;
    auto left = [&](std::uint32_t budget) { return spent(state.used, budget) < budgets.faults[budget]; };
    std::uint32_t last = NONE;
    for (std::uint32_t packed : state.messages) {
        if (channel_of(packed) == last) continue;
        last = channel_of(packed);
        events.push_back(tables_.channels[last].arrive);
        if (left(budgets.twice) && tables_.messages[message_of(packed)].echo != NONE)
            events.push_back(tables_.channels[last].twice);
    }
    for (std::uint32_t cell : state.cells) {
        const Cell& part = tables_.cells[cell];
        events.insert(events.end(), part.moves.begin(), part.moves.end());
        for (const Fault& fault : part.faults)
            if (left(fault.budget)) events.push_back(fault.event);
    }
    // With nothing else to come, time passes up to control's next deadline.
    if (tables_.cells[state.cells[tables_.control]].waits && (!busy(state) || left(budgets.expiry)))
        events.push_back(tables_.expire);
    return events;
}

std::uint32_t Search::charged(const State& state, std::uint32_t event) const {
    if (event == tables_.expire) return busy(state) ? tables_.budgets.expiry : NONE;
    return tables_.events[event].budget;
}

const Effect& Search::effect(const State& state, std::uint32_t event) {
    std::uint32_t delivered = message(state, event);
    std::uint64_t name = static_cast<std::uint64_t>(event) << 32 | delivered;
    auto found = tables_.touched.find(name);
    if (found == tables_.touched.end())
        found = tables_.touched.emplace(name, machines_.touched(event, delivered)).first;
    Words cells, key{event, delivered};
    for (std::uint32_t slot : found->second)
        cells.push_back(slot < state.cells.size() ? state.cells[slot] : 0);
    key.insert(key.end(), cells.begin(), cells.end());
    auto known = tables_.effect_of.find(key);
    if (known == tables_.effect_of.end()) {
        Effect fresh = machines_.perform(event, delivered, found->second, cells);
        tables_.effects.push_back(std::move(fresh));
        known = tables_.effect_of.emplace(std::move(key), tables_.effects.size() - 1).first;
    }
    return tables_.effects[known->second];
}

// Whether news of a connection to control is still on its way over the channel, when the first message of
// `delivered` is not.
bool Search::joining(const State& state, std::uint32_t channel, std::uint32_t delivered) const {
    bool skip = channel == delivered;
    for (std::uint32_t packed : state.messages) {
        if (channel_of(packed) != channel) continue;
        if (!skip && tables_.messages[message_of(packed)].joins) return true;
        skip = false;
    }
    return false;
}

State Search::after(const State& state, std::uint32_t event, const Outcome& outcome) const {
    State next;
    next.used = state.used;
    std::uint32_t budget = charged(state, event);
    if (budget != NONE) next.used += 1u << (4 * budget);
    next.cells = state.cells;
    for (auto [slot, cell] : outcome.parts) {
        if (slot >= next.cells.size()) next.cells.resize(slot + 1, 0);
        next.cells[slot] = cell;
    }
    std::uint32_t channel = tables_.events[event].channel;
    bool doubled = channel != NONE && tables_.channels[channel].twice == event;
    auto gone = [&](std::uint32_t to) {
        return std::find(outcome.died.begin(), outcome.died.end(), to) != outcome.died.end();
    };
    for (std::uint32_t packed : state.messages) {
        std::uint32_t to = tables_.channels[channel_of(packed)].to;
        if (channel_of(packed) == channel) {
            channel = NONE;
            if (!doubled) continue;
            packed = channel_of(packed) << CHANNEL_SHIFT | tables_.messages[message_of(packed)].echo;
        }
        if (!gone(to) && !(outcome.hangs_up && to == tables_.control)) next.messages.push_back(packed);
    }
    for (std::uint32_t packed : outcome.sent) {
        const Channel& over = tables_.channels[channel_of(packed)];
        if (over.to >= next.cells.size() || !next.cells[over.to]) continue;
        // Who has not heard yet that there is a new control speaks into a closed socket.
        if (over.reverse != NONE && joining(state, over.reverse, tables_.events[event].channel)) continue;
        auto place = std::upper_bound(next.messages.begin(), next.messages.end(), packed,
                                      [](auto a, auto b) { return channel_of(a) < channel_of(b); });
        next.messages.insert(place, packed);
    }
    for (std::uint32_t slot : outcome.died) next.cells[slot] = 0;
    return next;
}

bool Search::within(const State& state, Result& result) const {
    if (tables_.cells[state.cells[tables_.control]].attempts > tables_.budgets.attempts) {
        ++result.beyond_attempts;
        return false;
    }
    if (state.messages.size() > tables_.budgets.messages) {
        ++result.beyond_messages;
        return false;
    }
    return true;
}

void Search::broke(std::uint32_t number, Step step, const std::string& why, Result& result) const {
    result.broken = why;
    result.path.push_back(step);
    for (; number; number = parents_[number]) result.path.push_back(steps_[number]);
    std::reverse(result.path.begin(), result.path.end());
}

void Search::reach(const State& reached, std::uint32_t number, Step step, Result& result, Level& next) {
    ++result.transitions;
    if (!within(reached, result) || !seen_.add(keys_.of(reached, tables_))) return;
    ++result.states;
    next.numbers.push_back(static_cast<std::uint32_t>(parents_.size()));
    parents_.push_back(number);
    steps_.push_back(step);
    next.begins.push_back(next.words.size());
    Words words = reached.encode();
    next.words.insert(next.words.end(), words.begin(), words.end());
}

bool Search::expand(const State& state, std::uint32_t number, Result& result, Level& next) {
    if (!busy(state) && !tables_.cells[state.cells[tables_.control]].waits) {
        ++result.quiet;
        std::string why = machines_.quiet(state.cells);
        if (!why.empty()) return broke(number, {NONE, 0}, why, result), false;
    }
    for (std::uint32_t event : enabled(state)) {
        const Effect& found = effect(state, event);
        if (!found.broken.empty()) return broke(number, {event, 0}, found.broken, result), false;
        auto outcomes = static_cast<std::uint32_t>(found.outcomes.size());
        for (std::uint32_t which = 0; which < outcomes; ++which)
            reach(after(state, event, found.outcomes[which]), number, {event, which}, result, next);
    }
    return true;
}

Result Search::explore(const State& start, std::uint64_t states_max,
                       const std::function<bool(const Result&, std::uint64_t)>& tick) {
    Result result;
    seen_ = KeySet();
    parents_.assign(1, 0);
    steps_.assign(1, {NONE, 0});
    seen_.add(keys_.of(start, tables_));
    Level level;
    level.begins.push_back(0);
    level.numbers.push_back(0);
    level.words = start.encode();
    std::uint64_t ticks = 0;
    while (!level.begins.empty()) {
        Level next;
        for (std::size_t index = 0; index < level.begins.size(); ++index) {
            std::size_t begin = level.begins[index];
            std::size_t end = index + 1 < level.begins.size() ? level.begins[index + 1] : level.words.size();
            if (result.states >= states_max) return result;
            if (ticks++ % TICK_STATES == 0 && !tick(result, level.begins.size() - index + next.begins.size()))
                return result;
            State state = State::decode(level.words.data() + begin, end - begin);
            if (!expand(state, level.numbers[index], result, next)) return result;
        }
        level = std::move(next);
        result.depth += !level.begins.empty();
    }
    result.complete = true;
    return result;
}

}  // namespace explorer
