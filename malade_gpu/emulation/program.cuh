// A whole program around a file's kernels, for the sanitizers: which of them is its argument, the request comes on
// standard input, the outputs go to standard output.
//
// Input, all integers little-endian: grid (3 x uint32), block (3 x uint32), shared bytes (uint64), number of arguments
// (uint32); then for each argument its kind (uint32), bytes (uint64), and the bytes. Output: the OUTPUT arguments' bytes.
#pragma once

#include <string_view>

#include "launch.cuh"

namespace emulation {

template <class T>
T read_one() {
  T value;
  if (fread(&value, sizeof value, 1, stdin) != 1) fail("the request ends early");
  return value;
}

template <class... Parameters>
int run_program(void (*kernel)(Parameters...)) {
  EmulationRequest request = {};
  for (uint32_t& size : request.grid) size = read_one<uint32_t>();
  for (uint32_t& size : request.block) size = read_one<uint32_t>();
  request.shared_bytes = read_one<uint64_t>();
  request.num_arguments = read_one<uint32_t>();
  std::vector<EmulationArgument> arguments(request.num_arguments);
  std::vector<std::vector<char>> data(request.num_arguments);
  for (int i = 0; i < request.num_arguments; i++) {
    arguments[i].kind = read_one<uint32_t>();
    arguments[i].bytes = read_one<uint64_t>();
    arguments[i].name = "";
    data[i].resize(arguments[i].bytes);
    if (fread(data[i].data(), 1, data[i].size(), stdin) != data[i].size()) fail("the request ends early");
    arguments[i].data = data[i].data();
  }
  request.arguments = arguments.data();
  EmulationReport report = {};
  launch(kernel, request, report);
  for (const EmulationArgument& argument : arguments)
    if (argument.kind == EMULATION_OUTPUT) fwrite(argument.data, 1, argument.bytes, stdout);
  return 0;
}

}  // namespace emulation

#define EMULATED_CHOICE(name) \
  if (std::string_view(arguments[1]) == #name) return emulation::run_program(name);
#define EMULATED_PROGRAM(choices) \
  int main(int, char** arguments) { \
    choices \
    emulation::fail("no kernel is called %s", arguments[1]); \
  }
