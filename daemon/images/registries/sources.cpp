#include "daemon/images/registries/sources.hpp"

#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "daemon/sys/fd.hpp"

namespace userpod::images {

namespace {

constexpr std::size_t kMostConfBytes = 1U << 20;
constexpr std::size_t kMostDropIns = 256;

enum class Kind : std::uint8_t { Missing, File, Other };

// Looks at a path, and notes in the signature what it saw.
Kind look(Sources& sources, const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) < 0) {
    int why = errno;
    sources.signature += fmt::format("{}: {}\n", path, why);
    return why == ENOENT || why == ENOTDIR ? Kind::Missing : Kind::Other;
  }
  auto nanos = [](const timespec& time) { return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; };
  sources.signature += fmt::format("{}: {} {} {} {} {}\n", path, info.st_dev, info.st_ino, info.st_size,
                                   nanos(info.st_mtim), nanos(info.st_ctim));
  sources.newest = std::max({sources.newest, nanos(info.st_mtim), nanos(info.st_ctim)});
  return S_ISREG(info.st_mode) ? Kind::File : Kind::Other;
}

// *.conf of a directory, by name.
Result<std::vector<std::string>> dropInNames(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entries(directory, error);
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) return names;
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    std::string name = entries->path().filename();
    if (name.ends_with(".conf") && !name.starts_with(".")) names.push_back(std::move(name));
    if (names.size() > kMostDropIns)
      return Error(Code::ConfigInvalid, fmt::format("{}: has more than {} drop-ins", directory, kMostDropIns));
  }
  if (error) return Error(Code::ConfigInvalid, fmt::format("{}: cannot be read: {}", directory, error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

// One directory after the other. A file stands for those of the same name before it, as containers-config(5) has it: so
// a user masks a drop-in of the system's by an empty one, or a link to /dev/null.
Status addDropIns(Sources& sources, const std::vector<std::string>& directories) {
  std::vector<Source> dropIns;
  for (const auto& directory : directories) {
    look(sources, directory);
    USERPOD_TRY(names, dropInNames(directory));
    for (const auto& name : names) {
      std::erase_if(dropIns, [&](const Source& one) { return one.file.ends_with("/" + name); });
      auto path = fmt::format("{}/{}", directory, name);
      if (look(sources, path) == Kind::File) dropIns.push_back({path});
    }
  }
  std::move(dropIns.begin(), dropIns.end(), std::back_inserter(sources.files));
  return {};
}

Result<std::string> readConf(const std::string& file) {
  auto cannot = [&](const std::string& why) { return Error(Code::ConfigInvalid, file + ": cannot be read: " + why); };
  auto fd = openFile(file, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!fd) return cannot(std::strerror(fd.error().sysErrno()));
  struct stat info{};
  if (::fstat(fd->get(), &info) < 0) return cannot(std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return Error(Code::ConfigInvalid, file + ": is not a regular file");
  auto text = readAll(fd->get(), kMostConfBytes);
  if (!text && text.error().code() == Code::LimitsExceeded)
    return Error(Code::ConfigInvalid, file + ": has more than 1 MiB");
  if (!text) return cannot(text.error().text());
  return text;
}

}  // namespace

Result<Sources> findSources(const Places& places) {
  Sources sources;
  std::vector<std::string> directories;  // what is read later counts
  for (const auto& directory : {places.vendor, places.etc.empty() ? "" : places.etc + "/containers",
                                places.config.empty() ? "" : places.config + "/containers"})
    if (!directory.empty()) directories.push_back(directory);
  if (!places.registriesConf.empty()) {
    look(sources, places.registriesConf);
    sources.files.push_back({places.registriesConf});
  } else {
    for (auto directory = directories.rbegin(); directory != directories.rend() && sources.files.empty(); ++directory)
      if (auto file = *directory + "/registries.conf"; look(sources, file) != Kind::Missing)
        sources.files.push_back({file});
    for (auto& directory : directories) directory += "/registries.conf.d";
    USERPOD_CHECK(addDropIns(sources, directories));
  }
  if (!places.registriesOverride.empty()) {
    look(sources, places.registriesOverride);
    sources.files.push_back({places.registriesOverride});
  }
  auto aliases = places.cache + "/containers/short-name-aliases.conf";
  if (!places.cache.empty() && look(sources, aliases) != Kind::Missing)
    sources.files.push_back({aliases, ConfKind::Aliases});
  return sources;
}

Result<std::shared_ptr<const Registries>> readSources(const Sources& sources) {
  RegistriesConf conf;
  for (const auto& source : sources.files) {
    USERPOD_TRY(text, readConf(source.file));
    USERPOD_TRY(parsed, parseRegistriesConf(text, source.file, source.kind));
    mergeRegistriesConf(conf, std::move(parsed));
  }
  return makeRegistries(std::move(conf));
}

Result<std::shared_ptr<const Registries>> loadRegistries(const Places& places) {
  USERPOD_TRY(sources, findSources(places));
  return readSources(sources);
}

}  // namespace userpod::images
