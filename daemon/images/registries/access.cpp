#include "daemon/images/registries/access.hpp"

#include <fmt/core.h>

#include <optional>

#include "daemon/images/registries/auth_files.hpp"
#include "daemon/images/registries/credential_helper.hpp"
#include "daemon/images/registries/registries_conf.hpp"

namespace userpod::images {

namespace {

Result<Credentials> fromFile(const Places& places, const AuthFile& file, const std::string& host,
                             const std::vector<std::string>& keys) {
  for (const auto& key : keys)
    if (auto helper = file.helpers.find(key); helper != file.helpers.end())
      return askHelper(places, helper->second, canonicalHost(host), file.file);
  for (const auto& key : keys) {
    if (auto fault = file.faults.find(key); fault != file.faults.end())
      return Error(Code::ConfigInvalid, fmt::format("{}: auths: {}: {}", file.file, key, fault->second));
    if (auto entry = file.entries.find(key); entry != file.entries.end()) return entry->second;
  }
  if (!file.store.empty()) return askHelper(places, file.store, canonicalHost(host), file.file);
  return Credentials{};
}

Result<Credentials> fromFiles(const Places& places, const std::string& host, const std::string& path) {
  auto keys = authKeys(host, path);
  for (auto& file : readAuthFiles(places)) {
    // Only now: an earlier file may have had the entry.
    if (!file) return std::move(file).error();
    USERPOD_TRY(found, fromFile(places, *file, host, keys));
    if (!found.empty()) return found;
  }
  return Credentials{};
}

}  // namespace

Result<Credentials> findCredentials(const Places& places, const std::string& host, const std::string& path) {
  // What is wrong with registries.conf is told where it is read for its registries; a pull then goes on by what was
  // good before, and by the files that are asked unless it says otherwise.
  auto registries = loadRegistries(places);
  auto helpers = registries ? (*registries)->credentialHelpers() : std::vector<std::string>{kAuthFilesHelper};
  std::optional<Error> failure;
  for (const auto& helper : helpers) {
    auto found = helper == kAuthFilesHelper
                     ? fromFiles(places, host, path)
                     : askHelper(places, helper, canonicalHost(host), "registries.conf: credential-helpers");
    if (found && !found->empty()) return found;
    if (!found && !failure) failure = std::move(found).error();
  }
  if (failure) return *std::move(failure);
  return Credentials{};
}

}  // namespace userpod::images
