#include "daemon/images/registries/credential_helper.hpp"

#include <fmt/core.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "daemon/sys/child.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::images {

namespace {

constexpr std::size_t kMostAnswer = 64 << 10;
constexpr std::chrono::seconds kPatience{30};
constexpr const char* kDockerHubOfDocker = "https://index.docker.io/v1/";

// What helpers reach their keepers by: the session's bus and display, the stores' places, cloud accounts, proxies.
bool isForHelpers(std::string_view name) {
  constexpr std::array kNames = {"XDG_RUNTIME_DIR",
                                 "XDG_CONFIG_HOME",
                                 "XDG_CACHE_HOME",
                                 "XDG_DATA_HOME",
                                 "DBUS_SESSION_BUS_ADDRESS",
                                 "DISPLAY",
                                 "WAYLAND_DISPLAY",
                                 "XAUTHORITY",
                                 "LANG",
                                 "USER",
                                 "LOGNAME",
                                 "GNUPGHOME",
                                 "PASSWORD_STORE_DIR",
                                 "PASSWORD_STORE_GPG_OPTS",
                                 "SSL_CERT_FILE",
                                 "SSL_CERT_DIR",
                                 "HTTP_PROXY",
                                 "HTTPS_PROXY",
                                 "NO_PROXY",
                                 "http_proxy",
                                 "https_proxy",
                                 "no_proxy"};
  constexpr std::array kPrefixes = {"LC_", "AWS_", "AZURE_", "CLOUDSDK_", "GOOGLE_", "DOCKER_"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end() ||
         std::any_of(kPrefixes.begin(), kPrefixes.end(), [&](const char* prefix) { return name.starts_with(prefix); });
}

std::vector<std::string> helperEnvironment(const Places& places) {
  std::vector<std::string> environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    std::string_view text = *entry;
    if (isForHelpers(text.substr(0, text.find('=')))) environment.emplace_back(text);
  }
  std::string path;
  for (const auto& part : places.path) path += (path.empty() ? "" : ":") + part;
  environment.push_back("PATH=" + path);
  if (!places.home.empty()) environment.push_back("HOME=" + places.home);
  return environment;
}

std::string findHelper(const Places& places, const std::string& program) {
  for (const auto& directory : places.path) {
    auto path = fmt::format("{}/{}", directory, program);
    struct stat info{};
    if (::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && ::access(path.c_str(), X_OK) == 0) return path;
  }
  return "";
}

// By the protocol an error is told on standard output. What looks like an answer is not quoted: it may hold a secret.
std::string ownWords(const Output& output) {
  auto words = trim(output.out);
  if (words.empty()) words = trim(output.err);
  if (words.empty()) return "it said nothing";
  return words.find('{') == std::string_view::npos ? excerpt(words, 300) : "its answer is not quoted";
}

Result<Credentials> readAnswer(const std::string& answer, const std::string& who) {
  auto document = nlohmann::json::parse(answer, nullptr, false);
  auto field = [&](const char* key) {
    auto found = document.find(key);
    return found != document.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  if (!document.is_object())
    return Error(Code::RegistryDenied, who + ": its answer is not a JSON object with Username and Secret");
  Credentials credentials;
  auto user = field("Username");
  auto secret = field("Secret");
  if (secret.empty()) return credentials;
  if (user == "<token>") {
    credentials.identityToken = std::move(secret);
  } else {
    credentials.username = std::move(user);
    credentials.password = std::move(secret);
  }
  return credentials;
}

Result<Credentials> askFor(const Places& places, const std::string& path, const std::string& server,
                           const std::string& who) {
  USERPOD_TRY(input, makePipe());
  USERPOD_CHECK(writeAll(input.write.get(), server));  // less than a pipe holds
  input.write.reset();
  // A session of its own: a helper that would ask on the terminal fails at once.
  SpawnOptions options{.argv = {path, "get"},
                       .environment = helperEnvironment(places),
                       .descriptors = {{input.read.get(), 0}},
                       .directory = "/",
                       .deathSignal = SIGKILL,  // this thread waits for it
                       .newSession = true};
  auto output = run(std::move(options), kPatience, kMostAnswer + 1);
  if (!output) return Error(Code::RegistryDenied, who + ": " + output.error().text());
  if (output->status.code != 0) {
    if (output->out.find("credentials not found") != std::string::npos) return Credentials{};
    return Error(Code::RegistryDenied,
                 fmt::format("{}: exit status {}: {}", who, output->status.code, ownWords(*output)));
  }
  if (output->out.size() > kMostAnswer) return Error(Code::RegistryDenied, who + ": its answer has more than 64 KiB");
  return readAnswer(output->out, who);
}

}  // namespace

bool isHelperName(std::string_view name) {
  auto isPlain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  return !name.empty() && name.size() <= 100 && name.front() != '.' && name.front() != '-' &&
         std::all_of(name.begin(), name.end(), isPlain);
}

Result<Credentials> askHelper(const Places& places, const std::string& name, const std::string& host,
                              const std::string& origin) {
  if (!isHelperName(name))
    return Error(
        Code::ConfigInvalid,
        fmt::format("{}: \"{}\" is not the name of a credential helper: what follows docker-credential- in its "
                    "program's name",
                    origin, excerpt(name)));
  auto program = "docker-credential-" + name;
  auto path = findHelper(places, program);
  if (path.empty())
    return Error(Code::HelperMissing,
                 fmt::format("{}: {} is not in the daemon's PATH; install it, or remove it there", origin, program));
  auto who = fmt::format("{} for {}", program, host);
  USERPOD_TRY(found, askFor(places, path, host, who));
  // `docker login` keeps the credentials of Docker Hub under the address of its first protocol.
  if (found.empty() && host == "docker.io") return askFor(places, path, kDockerHubOfDocker, who);
  return found;
}

}  // namespace userpod::images
