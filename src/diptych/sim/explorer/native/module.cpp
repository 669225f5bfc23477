// The search as Python sees it: numbers in, numbers out, and calls back where only the machines know.
#include <nanobind/nanobind.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "search.hpp"

namespace nb = nanobind;
using namespace explorer;

namespace {

using Pairs = std::vector<std::pair<std::uint32_t, std::uint32_t>>;
using Steps = std::vector<std::tuple<std::uint32_t, std::int64_t, Pairs>>;

class Graph {
public:
    // Python's machines are given anew with each call, never kept: they hold this graph.
    Graph()
        : search_(tables_, {[this](std::uint32_t event, std::uint32_t message) {
                                return nb::cast<Words>(machines_.attr("touched")(event, place(message)));
                            },
                            [this](std::uint32_t event, std::uint32_t message, const Words& slots,
                                   const Words& cells) {
                                return effect(machines_.attr("perform")(event, place(message), slots, cells));
                            },
                            [this](const Words& cells) {
                                return nb::cast<std::string>(machines_.attr("quiet")(cells));
                            }}) {}

    void set_places(std::uint32_t control, std::uint32_t pool, std::uint32_t expire) {
        tables_.control = control;
        tables_.pool = pool;
        tables_.expire = expire;
    }

    void set_budgets(const Words& faults, std::uint32_t expiry, std::uint32_t twice, std::uint32_t messages,
                     std::uint32_t attempts) {
        if (faults.size() > BUDGETS_MAX) throw nb::value_error("too many kinds of budgets");
        for (std::size_t kind = 0; kind < faults.size(); ++kind) {
            if (faults[kind] > 15) throw nb::value_error("a budget is at most 15");
            tables_.budgets.faults[kind] = faults[kind];
        }
        tables_.budgets.expiry = expiry;
        tables_.budgets.twice = twice;
        tables_.budgets.messages = messages;
        tables_.budgets.attempts = attempts;
    }

    std::uint32_t add_cell(std::uint32_t shape, Words pages, Words free, Words books, Words contents) {
        Cell cell;
        cell.shape = shape;
        cell.pages = std::move(pages);
        cell.free = std::move(free);
        cell.books = std::move(books);
        cell.contents = std::move(contents);
        tables_.cells.push_back(std::move(cell));
        return static_cast<std::uint32_t>(tables_.cells.size() - 1);
    }

    void set_prospects(std::uint32_t number, Words moves, const Pairs& faults, bool waits,
                       std::uint32_t attempts) {
        Cell& cell = tables_.cells.at(number);
        cell.moves = std::move(moves);
        cell.faults.clear();
        for (auto [event, budget] : faults) cell.faults.push_back({event, budget});
        cell.waits = waits;
        cell.attempts = attempts;
    }

    std::uint32_t add_message(std::uint32_t shape, Words pages, int echo, bool joins) {
        Message message;
        message.shape = shape;
        message.pages = std::move(pages);
        message.echo = echo < 0 ? NONE : static_cast<std::uint32_t>(echo);
        message.joins = joins;
        tables_.messages.push_back(std::move(message));
        if (tables_.messages.size() > MESSAGE_MASK) throw nb::value_error("too many different messages");
        return static_cast<std::uint32_t>(tables_.messages.size() - 1);
    }

    std::uint32_t add_event(int budget) {
        Event event;
        event.budget = budget < 0 ? NONE : static_cast<std::uint32_t>(budget);
        tables_.events.push_back(event);
        return static_cast<std::uint32_t>(tables_.events.size() - 1);
    }

    std::uint32_t add_channel(std::uint32_t to, std::uint32_t arrive, std::uint32_t twice, int reverse) {
        Channel channel;
        channel.to = to;
        channel.arrive = arrive;
        channel.twice = twice;
        channel.reverse = reverse < 0 ? NONE : static_cast<std::uint32_t>(reverse);
        auto number = static_cast<std::uint32_t>(tables_.channels.size());
        tables_.channels.push_back(channel);
        tables_.events.at(arrive).channel = tables_.events.at(twice).channel = number;
        return number;
    }

    // A state as words: these cells by slot, and (channel, message) in flight.
    Words begin(const Words& cells, const Pairs& sent) {
        State state;
        state.cells = cells;
        for (auto [channel, message] : sent) state.messages.push_back(channel << CHANNEL_SHIFT | message);
        std::stable_sort(state.messages.begin(), state.messages.end(),
                         [](auto a, auto b) { return channel_of(a) < channel_of(b); });
        return state.encode();
    }

    std::vector<std::pair<std::uint32_t, std::int64_t>> enabled(const Words& words) {
        State state = State::decode(words.data(), words.size());
        std::vector<std::pair<std::uint32_t, std::int64_t>> events;
        for (std::uint32_t event : search_.enabled(state))
            events.emplace_back(event, place(search_.message(state, event)));
        return events;
    }

    Words follow(nb::handle machines, const Words& words, std::uint32_t event, std::uint32_t which) {
        machines_ = machines;
        State state = State::decode(words.data(), words.size());
        const Effect& found = search_.effect(state, event);
        if (!found.broken.empty()) throw nb::value_error(found.broken.c_str());
        State next = search_.after(state, event, found.outcomes.at(which));
        next.used = 0;
        return next.encode();
    }

    // (event, message delivered, what was sent) of each step of a path.
    Steps retrace(nb::handle machines, const Words& words, const Pairs& path) {
        machines_ = machines;
        State state = State::decode(words.data(), words.size());
        Steps steps;
        for (auto [event, which] : path) {
            if (event == NONE) break;
            steps.emplace_back(event, place(search_.message(state, event)), Pairs{});
            const Effect& found = search_.effect(state, event);
            if (!found.broken.empty()) break;
            const Outcome& outcome = found.outcomes.at(which);
            for (std::uint32_t packed : outcome.sent)
                std::get<2>(steps.back()).emplace_back(channel_of(packed), message_of(packed));
            state = search_.after(state, event, outcome);
        }
        return steps;
    }

    Result explore(nb::handle machines, const Words& words, std::uint64_t states_max, nb::callable tick) {
        machines_ = machines;
        return search_.explore(State::decode(words.data(), words.size()), states_max,
                               [&](const Result& result, std::uint64_t waiting) {
                                   return nb::cast<bool>(tick(result.states, result.depth, waiting));
                               });
    }

    std::pair<std::uint64_t, std::uint64_t> key(const Words& words) {
        Key key = keys_.of(State::decode(words.data(), words.size()), tables_);
        return {key.low, key.high};
    }

    std::size_t effects() const { return tables_.effects.size(); }

private:
    static std::int64_t place(std::uint32_t number) {
        return number == NONE ? -1 : static_cast<std::int64_t>(number);
    }

    // Either what broke, or a list of (parts, died, sent, hangs_up).
    static Effect effect(nb::object told) {
        Effect effect;
        if (nb::isinstance<nb::str>(told)) {
            effect.broken = nb::cast<std::string>(told);
            return effect;
        }
        using Told = std::tuple<Pairs, Words, Pairs, bool>;
        for (auto& [parts, died, sent, hangs_up] : nb::cast<std::vector<Told>>(told)) {
            Outcome outcome;
            outcome.parts = parts;
            outcome.died = died;
            for (auto [channel, message] : sent) outcome.sent.push_back(channel << CHANNEL_SHIFT | message);
            outcome.hangs_up = hangs_up;
            effect.outcomes.push_back(std::move(outcome));
        }
        return effect;
    }

    nb::handle machines_;
    Tables tables_;
    Search search_;
    KeyMaker keys_;
};

}  // namespace

NB_MODULE(_search, module) {
    nb::class_<Result>(module, "Result")
        .def_ro("states", &Result::states)
        .def_ro("transitions", &Result::transitions)
        .def_ro("depth", &Result::depth)
        .def_ro("quiet", &Result::quiet)
        .def_ro("beyond_messages", &Result::beyond_messages)
        .def_ro("beyond_attempts", &Result::beyond_attempts)
        .def_ro("complete", &Result::complete)
        .def_ro("broken", &Result::broken)
        .def_ro("path", &Result::path);
    nb::class_<Graph>(module, "Graph")
        .def(nb::init<>())
        .def("set_places", &Graph::set_places)
        .def("set_budgets", &Graph::set_budgets)
        .def("add_cell", &Graph::add_cell)
        .def("set_prospects", &Graph::set_prospects)
        .def("add_message", &Graph::add_message)
        .def("add_event", &Graph::add_event)
        .def("add_channel", &Graph::add_channel)
        .def("begin", &Graph::begin)
        .def("enabled", &Graph::enabled)
        .def("follow", &Graph::follow)
        .def("retrace", &Graph::retrace)
        .def("key", &Graph::key)
        .def("explore", &Graph::explore)
        .def_prop_ro("effects", &Graph::effects);
}
