// auth.json and .dockercfg: the first line is a repository, the rest the text of the file. What is wrong is told
// without its content, and what is found is of the repository.
#include <algorithm>

#include "daemon/images/registries/auth_files.hpp"
#include "daemon/sys/util.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace userpod;
using namespace userpod::images;
using fuzz::require;

namespace {

constexpr const char* kAuthName = "auth.json";

void checkKeys(const std::string& host, const std::string& path) {
  auto keys = authKeys(host, path);
  require(!keys.empty() && keys.size() <= path.size() + 2, "there is a key, and not too many");
  for (std::size_t i = 1; i < keys.size(); ++i)
    require(keys[i - 1].starts_with(keys[i]) && keys[i].size() < keys[i - 1].size(),
            "each key is within the one before");
}

void checkFile(std::string_view text, AuthFormat format) {
  auto file = parseAuthFile(text, kAuthName, format);
  if (!file) {
    require(file.error().code() == Code::ConfigInvalid, "a file that cannot be read is an invalid configuration");
    require(file.error().text().starts_with(std::string(kAuthName) + ":"), "an error names the file");
    require(file.error().text().size() < 200 && isUtf8(file.error().text()), "the message is short and UTF-8");
    return;
  }
  for (const auto& [place, credentials] : file->entries) {
    require(!credentials.empty(), "an entry says something");
    require(!file->faults.contains(place), "an entry is good or bad");
    require(credentials.username.find(':') == std::string::npos || text.find("username") != std::string_view::npos,
            "a user of a pair ends at the colon");
  }
  for (const auto& [place, fault] : file->faults)
    require(fault.starts_with("auth ") && fault.size() < 200, "a fault does not quote");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto text = fuzz::text(data, size);
  auto line = text.find('\n');
  auto name = text.substr(0, line);
  auto file = line == std::string_view::npos ? std::string_view() : text.substr(line + 1);
  auto slash = name.find('/');
  checkKeys(std::string(name.substr(0, slash)),
            slash == std::string_view::npos ? "" : std::string(name.substr(slash + 1)));
  checkFile(file, AuthFormat::Containers);
  checkFile(file, AuthFormat::DockerCfg);
  return 0;
}
