// What conmon and OCI runtimes write: messages are one line of UTF-8, numbers are numbers.
#include <algorithm>

#include "daemon/oci/messages.hpp"
#include "daemon/sys/util.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace userpod;
using namespace userpod::oci;
using fuzz::require;

namespace {

void checkWords(const std::string& words) {
  require(words.size() <= 4096, "a message has 4 KiB at most");
  require(isUtf8(words), "a message is UTF-8");
  require(std::none_of(words.begin(), words.end(),
                       [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }),
          "a message has no control characters");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto text = fuzz::text(data, size);
  checkWords(plainMessage(text));
  if (auto answer = parseMonitorAnswer(text)) {
    require(answer->pid >= 0, "a process has a positive number");
    require(answer->pid == 0 || answer->words.empty(), "a process or words");
    checkWords(answer->words);
  }
  if (auto number = parseNumber(text)) require(parseNumber(std::to_string(*number)) == number, "a number is itself");
  return 0;
}
