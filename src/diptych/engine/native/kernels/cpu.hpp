// Which instruction sets this CPU and build can run.
#pragma once
#include <string>
#include <vector>

namespace diptych {

// Names, the best first: "avx512", "avx2", "plain".
std::vector<std::string> runnable_isas();

// `name` where given, else what the environment variable DIPTYCH_ISA names, else the best. Throws
// std::invalid_argument naming what can be had.
std::string chosen_isa(const std::string &name);

} // namespace diptych
