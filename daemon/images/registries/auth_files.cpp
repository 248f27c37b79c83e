#include "daemon/images/registries/auth_files.hpp"

#include <fmt/core.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "daemon/images/registries/registries_conf.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

using Json = nlohmann::json;

constexpr std::size_t kMostAuthBytes = 1U << 20;

Error badAuth(const std::string& file, std::string_view what) {
  return {Code::ConfigInvalid, fmt::format("{}: {}", file, what)};
}

// nullopt: not base64. Line breaks are skipped, as Go does.
std::optional<std::string> decodeBase64(std::string text) {
  std::erase_if(text, [](char c) { return c == '\n' || c == '\r'; });
  if (text.size() % 4 != 0) return std::nullopt;
  std::string bytes(text.size() / 4 * 3, '\0');
  int length = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                               reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (length < 0) return std::nullopt;
  auto padding = std::min<std::size_t>(2, text.size() - std::min(text.find_last_not_of('=') + 1, text.size()));
  bytes.resize(static_cast<std::size_t>(length) - std::min(padding, static_cast<std::size_t>(length)));
  return bytes;
}

std::string textOf(const Json& object, const char* key) {
  auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// "user:password", the password with whatever follows the first colon. Returns what is wrong with it.
std::string readPair(const std::string& auth, Credentials& credentials) {
  auto decoded = decodeBase64(auth);
  if (!decoded) return "auth is not base64; log in again";
  auto colon = decoded->find(':');
  if (colon == std::string::npos) return "auth holds no user and password with a colon between; log in again";
  credentials.username = decoded->substr(0, colon);
  credentials.password = decoded->substr(colon + 1);
  while (credentials.password.ends_with('\0')) credentials.password.pop_back();  // old clients padded it
  return "";
}

struct AuthKey {
  std::string place;   // host[/namespace...]
  bool exact = false;  // not made from an address
};

// Old clients wrote addresses, "https://host/v1/": of those only the host counts.
AuthKey normalKey(std::string_view key, AuthFormat format) {
  bool address = false;
  for (std::string_view scheme : {"https://", "http://"})
    if (key.starts_with(scheme)) {
      key.remove_prefix(scheme.size());
      address = true;
      break;
    }
  while (key.ends_with('/')) key.remove_suffix(1);
  auto slash = key.find('/');
  auto host = canonicalHost(key.substr(0, slash));
  auto rest = slash == std::string_view::npos ? std::string_view() : key.substr(slash);
  bool hub = host == "registry-1.docker.io" || (host == "docker.io" && (rest == "/v1" || rest == "/v2"));
  if (host == "registry-1.docker.io") host = "docker.io";
  if (address || hub || format == AuthFormat::DockerCfg) return {host, rest.empty() && !address && !hub};
  return {host + std::string(rest), true};
}

void readEntry(AuthFile& into, const std::string& place, const Json& entry) {
  Credentials credentials;
  std::string fault;
  if (auto auth = textOf(entry, "auth"); !auth.empty()) {
    fault = readPair(auth, credentials);
  } else {
    credentials.username = textOf(entry, "username");
    credentials.password = textOf(entry, "password");
  }
  credentials.identityToken = textOf(entry, "identitytoken");
  credentials.registryToken = textOf(entry, "registrytoken");
  if (!fault.empty() && credentials.identityToken.empty() && credentials.registryToken.empty()) {
    into.entries.erase(place);
    into.faults.insert_or_assign(place, fault);
  } else if (!credentials.empty()) {  // an empty one only marks that a helper has it
    into.faults.erase(place);
    into.entries.insert_or_assign(place, std::move(credentials));
  }
}

Status readEntries(AuthFile& into, const Json& auths, AuthFormat format) {
  if (auths.is_null()) return {};
  if (!auths.is_object()) return badAuth(into.file, "auths must be an object");
  // Exact keys last: they count before addresses of the same host.
  for (bool exact : {false, true})
    for (const auto& [name, entry] : auths.items()) {
      auto key = normalKey(name, format);
      if (key.exact != exact) continue;
      if (!entry.is_object()) return badAuth(into.file, fmt::format("auths: {} must be an object", excerpt(name)));
      readEntry(into, key.place, entry);
    }
  return {};
}

Status readHelperNames(AuthFile& into, const Json& document) {
  auto found = document.find("credHelpers");
  if (found != document.end() && !found->is_null()) {
    if (!found->is_object()) return badAuth(into.file, "credHelpers must be an object");
    for (const auto& [name, helper] : found->items()) {
      if (!helper.is_string())
        return badAuth(into.file, fmt::format("credHelpers: {} must be the name of a helper", excerpt(name)));
      into.helpers.insert_or_assign(normalKey(name, AuthFormat::Containers).place, helper.get<std::string>());
    }
  }
  auto store = document.find("credsStore");
  if (store == document.end() || store->is_null()) return {};
  if (!store->is_string()) return badAuth(into.file, "credsStore must be the name of a helper");
  into.store = store->get<std::string>();
  return {};
}

// Inside a user namespace files of everybody who is not mapped, root of the host among them, belong to one uid.
bool isUnmappedHere(uid_t uid) {
  static const bool initial = [] {
    auto map = readFile("/proc/self/uid_map");
    return !map || map->find("4294967295") != std::string::npos;
  }();
  constexpr uid_t kOverflow = 65534;
  return !initial && uid == kOverflow;
}

void warnOfReaders(const std::string& file) {
  static std::mutex mutex;
  static std::set<std::string> told;
  std::lock_guard lock(mutex);
  if (told.insert(file).second)
    logWarning("{}: everybody may read the credentials in it; mend: chmod 600 {}", file, file);
}

// nullopt: there is no such file.
Result<std::optional<std::string>> readSecretFile(const std::string& file) {
  auto fd = openFile(file, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!fd && (fd.error().sysErrno() == ENOENT || fd.error().sysErrno() == ENOTDIR)) return std::optional<std::string>();
  if (!fd) return badAuth(file, fmt::format("cannot be read: {}", std::strerror(fd.error().sysErrno())));
  struct stat info{};
  if (::fstat(fd->get(), &info) < 0) return sysError(file);
  if (!S_ISREG(info.st_mode)) return badAuth(file, "is not a regular file");
  if (info.st_uid != 0 && info.st_uid != ::geteuid() && !isUnmappedHere(info.st_uid))
    return badAuth(file, fmt::format("belongs to uid {}, not to you or root; mend: chown it", info.st_uid));
  if ((info.st_mode & S_IWOTH) != 0)
    return badAuth(file, fmt::format("everybody may write it; mend: chmod 600 {}", file));
  if ((info.st_mode & S_IROTH) != 0) warnOfReaders(file);
  auto text = readAll(fd->get(), kMostAuthBytes);
  if (!text && text.error().code() == Code::LimitsExceeded) return badAuth(file, "has more than 1 MiB");
  if (!text) return badAuth(file, fmt::format("cannot be read: {}", text.error().text()));
  return std::optional<std::string>(std::move(*text));
}

}  // namespace

Result<AuthFile> parseAuthFile(std::string_view text, const std::string& file, AuthFormat format) {
  AuthFile parsed{.file = file};
  if (trim(text).empty()) return parsed;
  Json document;
  try {
    document = Json::parse(text);
  } catch (const Json::parse_error& error) {
    // Not its own words: they quote the text.
    auto before = text.substr(0, std::min(error.byte, text.size()));
    return Error(Code::ConfigInvalid,
                 fmt::format("{}:{}: is not JSON", file, 1 + std::count(before.begin(), before.end(), '\n')));
  } catch (const Json::exception&) {
    return badAuth(file, "holds a number that is none");
  }
  if (!document.is_object()) return badAuth(file, "must be a JSON object");
  if (format == AuthFormat::DockerCfg) {
    USERPOD_CHECK(readEntries(parsed, document, format));
    return parsed;
  }
  if (auto auths = document.find("auths"); auths != document.end()) USERPOD_CHECK(readEntries(parsed, *auths, format));
  USERPOD_CHECK(readHelperNames(parsed, document));
  return parsed;
}

std::vector<std::string> authKeys(const std::string& host, const std::string& path) {
  std::vector<std::string> keys;
  auto place = canonicalHost(host);
  auto shortest = place.size();
  if (!path.empty()) place += "/" + path;
  while (place.size() > shortest) {
    keys.push_back(place);
    place.resize(std::max(place.rfind('/'), shortest));
  }
  keys.push_back(place);
  return keys;
}

std::vector<Result<AuthFile>> readAuthFiles(const Places& places) {
  std::vector<std::pair<std::string, AuthFormat>> paths;
  auto add = [&](const std::string& directory, const char* name, AuthFormat format) {
    if (!directory.empty()) paths.emplace_back(directory + name, format);
  };
  if (!places.authFile.empty()) {
    paths.emplace_back(places.authFile, AuthFormat::Containers);
  } else {
    add(places.runtime, "/containers/auth.json", AuthFormat::Containers);
    add(places.config, "/containers/auth.json", AuthFormat::Containers);
    add(places.dockerConfig, "/config.json", AuthFormat::Containers);
    add(places.home, "/.dockercfg", AuthFormat::DockerCfg);
  }
  std::vector<Result<AuthFile>> files;
  for (const auto& [path, format] : paths) {
    auto text = readSecretFile(path);
    if (!text)
      files.emplace_back(std::move(text).error());
    else if (*text)
      files.push_back(parseAuthFile(**text, path, format));
  }
  return files;
}

}  // namespace userpod::images
