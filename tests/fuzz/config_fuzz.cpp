// Image configs: what is read fits into everything it goes on to, as C strings, JSON and D-Bus texts.
#include <algorithm>

#include "daemon/images/manifest.hpp"
#include "daemon/images/reference.hpp"
#include "daemon/sys/util.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace userpod;
using namespace userpod::images;
using fuzz::require;

namespace {

void check(const std::string& text) {
  require(isUtf8(text), "a text of the config is UTF-8");
  require(text.find('\0') == std::string::npos, "a text of the config has no NUL");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  ImageRecord image;
  auto status = readConfig(fuzz::text(data, size), image);
  if (!status) {
    require(status.error().code() == Code::ImageInvalid, "a config that cannot be read is an invalid image");
    require(status.error().text().size() < 1000 && isUtf8(status.error().text()), "the message is short and UTF-8");
    return 0;
  }
  require(std::all_of(image.diffIds.begin(), image.diffIds.end(), isSha256Digest), "a DiffID is a SHA-256 digest");
  for (const auto* text :
       {&image.architecture, &image.os, &image.variant, &image.user, &image.workingDirectory, &image.stopSignal})
    check(*text);
  for (const auto* list : {&image.entrypoint, &image.command, &image.environment, &image.volumes})
    for (const auto& text : *list) check(text);
  for (const auto& [name, value] : image.labels) {
    check(name);
    check(value);
  }
  return 0;
}
