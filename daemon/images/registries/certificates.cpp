// certs.d: containers-certs.d(5).
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "daemon/images/registries/access.hpp"
#include "daemon/sys/fd.hpp"
#include "daemon/sys/log.hpp"

namespace userpod::images {

namespace {

Error badCertificate(const std::string& file, std::string_view what) {
  return {Code::ConfigInvalid, fmt::format("{}: {}", file, what)};
}

// PEM at all: the first MiB of a long list of authorities will do.
Status checkPem(const std::string& file) {
  auto fd = openFile(file, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!fd) return badCertificate(file, fmt::format("cannot be read: {}", std::strerror(fd.error().sysErrno())));
  struct stat info{};
  if (::fstat(fd->get(), &info) < 0) return sysError(file);
  if (!S_ISREG(info.st_mode)) return badCertificate(file, "is not a regular file");
  std::string text(std::min<std::size_t>(static_cast<std::size_t>(info.st_size), 1U << 20), '\0');
  ssize_t count = ::pread(fd->get(), text.data(), text.size(), 0);
  if (count < 0) return badCertificate(file, fmt::format("cannot be read: {}", std::strerror(errno)));
  text.resize(static_cast<std::size_t>(count));
  if (text.empty()) return badCertificate(file, "is empty; remove it, or put the PEM text into it");
  if (text.find("-----BEGIN ") == std::string::npos) return badCertificate(file, "is not a PEM file");
  return {};
}

bool isDirectory(const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) == 0) return S_ISDIR(info.st_mode);
  if (errno != ENOENT && errno != ENOTDIR) logDebug("{}: passed over: {}", path, std::strerror(errno));
  return false;
}

Result<HostCertificates> readDirectory(const std::string& directory) {
  HostCertificates found;
  auto names = namesIn(directory);
  std::sort(names.begin(), names.end());
  auto has = [&](const std::string& name) { return std::binary_search(names.begin(), names.end(), name); };
  for (const auto& name : names) {
    auto path = fmt::format("{}/{}", directory, name);
    auto stem = name.substr(0, name.rfind('.'));
    if (name.ends_with(".crt")) {
      USERPOD_CHECK(checkPem(path));
      found.authorities.push_back(path);
    } else if (name.ends_with(".cert")) {
      if (!has(stem + ".key"))
        return badCertificate(
            path, fmt::format("there is no {}.key for this client certificate; authorities end in .crt", stem));
      auto key = fmt::format("{}/{}.key", directory, stem);
      USERPOD_CHECK(checkPem(path));
      USERPOD_CHECK(checkPem(key));
      found.clients.push_back({path, key});
    } else if (name.ends_with(".key")) {
      if (!has(stem + ".cert")) return badCertificate(path, fmt::format("there is no {}.cert for this key", stem));
    } else {
      logDebug("{}: passed over: neither .crt nor .cert nor .key", path);
    }
  }
  return found;
}

}  // namespace

Result<HostCertificates> hostCertificates(const Places& places, const std::string& host) {
  if (host.empty() || host.front() == '.' || host.find('/') != std::string::npos)
    return Error(Code::InvalidArgument, "\"" + host + "\" is not a host");
  std::vector<std::string> directories;
  if (!places.config.empty()) directories.push_back(places.config + "/containers/certs.d/" + host);
  if (!places.etc.empty()) {
    directories.push_back(places.etc + "/containers/certs.d/" + host);
    directories.push_back(places.etc + "/docker/certs.d/" + host);
  }
  for (const auto& directory : directories)
    if (isDirectory(directory)) return readDirectory(directory);
  return HostCertificates{};
}

}  // namespace userpod::images
