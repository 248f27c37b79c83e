// images, pull, rmi, image prune.
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string_view>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"
#include "dbus/userpodctl/bus_client.hpp"
#include "dbus/userpodctl/commands.hpp"
#include "dbus/userpodctl/output.hpp"
#include "dbus/userpodctl/pull_view.hpp"

namespace userpod::ctl {
namespace {

constexpr const char* kImage = "org.userpod1.Image";

// ---- images

std::string idText(const std::string& id, const ImagesOptions& options) {
  return options.noTrunc ? id : shortId(id);
}

// "host/path@sha256:<12 digits>"
std::string digestText(const std::string& name, const ImagesOptions& options) {
  auto digest = name.find("@sha256:");
  return options.noTrunc || digest == std::string::npos ? name : name.substr(0, digest + 8 + 12);
}

std::string joinedTexts(const Json& image, const char* name, const ImagesOptions& options) {
  std::string all;
  for (const auto& one : image.value(name, Json::array()))
    all += (all.empty() ? "" : ", ") + digestText(one.get<std::string>(), options);
  return all;
}

std::vector<std::string> imageRow(const Json& image, const ImagesOptions& options) {
  std::string names = joinedTexts(image, "RepoTags", options);
  if (names.empty() && !options.digests) names = joinedTexts(image, "RepoDigests", options);
  std::vector<std::string> row = {idText(text(image, "Id"), options), names.empty() ? "-" : names};
  if (options.digests) row.push_back(joinedTexts(image, "RepoDigests", options));
  for (auto& cell : {sizeText(number(image, "Size")), std::to_string(image.value("UsedBy", Json::array()).size()),
                     std::string(image.value("Pinned", false) ? "yes" : "-"), timeText(number(image, "CreatedAt"))})
    row.push_back(cell);
  return row;
}

Status showImages(const ImagesOptions& options, const Display& display) {
  USERPOD_TRY(bus, BusClient::open());
  std::vector<const char*> fields;
  if (options.quiet)
    fields = {"Id"};
  else if (!display.json)
    fields = {"Id", "RepoTags", "RepoDigests", "Size", "UsedBy", "Pinned", "CreatedAt"};
  USERPOD_TRY(images, bus.list("ListImages", fields));
  if (display.json) {
    fmt::print("{}\n", images.dump(2));
    return {};
  }
  if (options.quiet) {
    for (const auto& image : images) fmt::print("{}\n", idText(text(image, "Id"), options));
    return {};
  }
  std::vector<std::vector<std::string>> rows = {{"ID", "NAMES", "SIZE", "USED BY", "PINNED", "CREATED"}};
  if (options.digests) rows.front().insert(rows.front().begin() + 2, "DIGESTS");
  for (const auto& image : images) rows.push_back(imageRow(image, options));
  fmt::print("{}", table(rows));
  return {};
}

// ---- pull

// The one who shows how a pull goes.
class PullWatcher {
 public:
  PullWatcher(const PullOptions& options, const Display& display) : image_(options.image) {
    const char* terminal = std::getenv("TERM");
    bool drawable = terminal != nullptr && std::string_view(terminal) != "dumb";
    if (options.quiet)
      kind_ = Kind::Silent;
    else if (display.json)
      kind_ = Kind::Json;
    else if (::isatty(STDERR_FILENO) == 1 && drawable)
      kind_ = Kind::Bars;
    screen_.color = colorWanted();
  }

  void changed(const Json& properties) {
    state_.change(properties, PullState::Clock::now());
    show();
  }
  void interrupted() {
    state_.interrupted();
    show();
  }

 private:
  enum class Kind { Silent, Lines, Bars, Json };

  void show() {
    if (kind_ == Kind::Json) {
      fmt::print("{}\n", progressJson(state_).dump());
      std::fflush(stdout);
    } else if (kind_ == Kind::Bars) {
      measure();
      auto bytes = redraw_.over(bars(image_, state_, screen_), screen_.columns);
      fmt::print(stderr, "{}", bytes);
      std::fflush(stderr);
    } else if (kind_ == Kind::Lines) {
      for (const auto& line : lines_.news(state_)) fmt::print(stderr, "{}\n", line);
    }
  }
  // Anew each time: the window may have another size by now.
  void measure() {
    winsize size{};
    if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0) return;
    screen_.columns = std::max<std::size_t>(size.ws_col, 8);
    screen_.rows = size.ws_row;
  }

  std::string image_;
  Kind kind_ = Kind::Lines;
  PullState state_;
  Screen screen_;
  Redraw redraw_;
  Lines lines_;
};

Result<std::string> readSecret(const char* option) {
  if (::isatty(STDIN_FILENO) == 1)
    return Error(Code::InvalidArgument, fmt::format("{} reads a pipe or a file, not a terminal", option));
  USERPOD_TRY(text, readAll(STDIN_FILENO, 64 << 10));
  // The line's end is the pipe's; blanks are the secret's own.
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  return std::move(text);
}

// The options of PullImage.
Result<std::vector<std::pair<const char*, std::string>>> credentialOptions(const PullOptions& options) {
  std::vector<std::pair<const char*, std::string>> list;
  if (options.passwordStdin) {
    USERPOD_TRY(password, readSecret("--password-stdin"));
    list.emplace_back("username", options.username);
    list.emplace_back("password", std::move(password));
  } else if (options.identityTokenStdin) {
    USERPOD_TRY(token, readSecret("--identity-token-stdin"));
    list.emplace_back("identity-token", std::move(token));
  }
  return list;
}

Status pull(const PullOptions& options, const Display& display) {
  USERPOD_TRY(credentials, credentialOptions(options));
  USERPOD_TRY(bus, BusClient::open());
  PullWatcher watcher(options, display);
  auto arguments = [&](sd_bus_message* message) {
    int failed = sd_bus_message_append(message, "s", options.image.c_str());
    if (failed >= 0) failed = sd_bus_message_open_container(message, 'a', "{sv}");
    for (const auto& [name, value] : credentials)
      if (failed >= 0) failed = sd_bus_message_append(message, "{sv}", name, "s", value.c_str());
    return failed < 0 ? failed : sd_bus_message_close_container(message);
  };
  USERPOD_TRY(result,
              bus.runJob(kRootPath, kManager, "PullImage", arguments,
                         {[&](const Json& changed) { watcher.changed(changed); }, [&] { watcher.interrupted(); }}));
  std::string path = result.value("image", "");
  USERPOD_TRY(image, bus.properties(path, kImage));
  std::string id = image.value("Id", path);
  if (display.json && !options.quiet)
    fmt::print("{}\n", Json({{"image", path}, {"id", id}}).dump());
  else
    fmt::print("{}\n", id);
  return {};
}

// ---- rmi

Status removeImage(BusClient& bus, const std::string& key, const Display& display) {
  USERPOD_TRY(object, bus.find(key, {"Image"}));
  USERPOD_TRY(image, bus.properties(object.path, kImage));
  USERPOD_TRY(done, bus.runJob(object.path, object.interface, "Remove", noOptions()));
  (void)done;
  const Json& names = image.value("RepoTags", Json::array());
  if (display.json) {
    fmt::print(
        "{}\n",
        Json({{"result", "removed"}, {"key", key}, {"path", object.path}, {"id", text(image, "Id")}, {"names", names}})
            .dump());
    return {};
  }
  fmt::print("{}: removed\n", printable(key));
  for (const auto& name : names)
    if (name != key) fmt::print("  with its name {}\n", printable(name.get<std::string>()));
  return {};
}

// ---- prune

Result<Json> runPrune(BusClient& bus, const PruneOptions& options, bool dryRun) {
  std::vector<std::string> names;
  if (options.all) names.emplace_back("all");
  if (dryRun) names.emplace_back("dry-run");
  return bus.runJob(kRootPath, kManager, "PruneImages", trueOptions(names));
}

// "ID  NAMES", for each of the result.
std::string prunedText(const Json& result, const Json& images) {
  std::map<std::string, const Json*> known;
  for (const auto& image : images) known[text(image, "Id")] = &image;
  std::vector<std::vector<std::string>> rows;
  for (const auto& entry : result.value("images", Json::array())) {
    auto id = entry.get<std::string>();
    auto image = known.find(id);
    rows.push_back({shortId(id), image == known.end() ? "" : imageRow(*image->second, {}).at(1)});
  }
  return table(rows);
}

Status prune(const PruneOptions& options, const Display& display) {
  bool ask = !options.yes && !options.dryRun;
  if (ask && (display.json || ::isatty(STDIN_FILENO) != 1))
    return Error(Code::InvalidArgument, "prune removes images: say --yes, or --dry-run to see which");
  USERPOD_TRY(bus, BusClient::open());
  USERPOD_TRY(images, bus.list("ListImages", {"Id", "RepoTags", "RepoDigests"}));
  auto count = [](const Json& result) { return result.value("images", Json::array()).size(); };
  if (ask) {
    USERPOD_TRY(planned, runPrune(bus, options, true));
    if (count(planned) > 0) {
      fmt::print("{}", prunedText(planned, images));
      auto question = fmt::format("This removes {} images and frees {}.", count(planned),
                                  sizeText(planned.value("bytes", std::uint64_t{0})));
      if (!confirmed(question)) return Error(Code::Canceled, "nothing was removed");
    }
  }
  USERPOD_TRY(result, runPrune(bus, options, options.dryRun));
  if (display.json) {
    fmt::print("{}\n", Json({{"images", result.value("images", Json::array())},
                             {"bytes", result.value("bytes", std::uint64_t{0})},
                             {"dry-run", options.dryRun}})
                           .dump());
    return {};
  }
  if (!ask) fmt::print("{}", prunedText(result, images));
  fmt::print("{} {} images, {}\n", options.dryRun ? "would remove" : "removed", count(result),
             sizeText(result.value("bytes", std::uint64_t{0})));
  return {};
}

}  // namespace

int runImages(const ImagesOptions& options, const Display& display) {
  return finish(showImages(options, display), display);
}

int runPull(const PullOptions& options, const Display& display) {
  return finish(pull(options, display), display);
}

int runRemoveImages(const ActOptions& options, const Display& display) {
  auto bus = BusClient::open();
  if (!bus) return fail(bus.error(), display);
  int status = 0;
  for (const auto& key : options.keys) {
    auto removed = removeImage(*bus, key, display);
    if (removed) continue;
    int failed = fail(Error(removed.error()).wrap(key), display);
    if (status == 0) status = failed;
  }
  return status;
}

int runPruneImages(const PruneOptions& options, const Display& display) {
  return finish(prune(options, display), display);
}

}  // namespace userpod::ctl
