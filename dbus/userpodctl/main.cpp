// userpodctl: the command line of userpod. What each command does stands in commands.hpp.
#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "dbus/userpodctl/bus_client.hpp"
#include "dbus/userpodctl/commands.hpp"
#include "dbus/userpodctl/output.hpp"
#include "policy/settings.hpp"
#include "userns/enter.hpp"

namespace userpod::ctl {

int fail(const Error& error, const Display& display) {
  if (display.json)
    fmt::print(stderr, "{}\n",
               Json({{"error", codeName(error.code())}, {"message", error.text()}})
                   .dump(-1, ' ', false, Json::error_handler_t::replace));
  else
    fmt::print(stderr, "userpodctl: {}\n", error.text());
  return exitStatus(error.code());
}

int finish(const Status& status, const Display& display) {
  return status ? EXIT_SUCCESS : fail(status.error(), display);
}

int runEnter(const std::vector<std::string>& command, const Display& display) {
  auto paths = userPaths();
  if (!paths) return fail(paths.error(), display);
  return enterNode(*paths, {command});
}

namespace {

// Takes off the words after the first "--", and of enter those from the command on: their options are not ours.
std::vector<std::string> splitOff(std::vector<std::string>& words) {
  bool enter = !words.empty() && words.front() == "enter";
  for (auto word = words.begin(); word != words.end(); ++word) {
    bool separator = *word == "--";
    bool command = enter && word != words.begin() && word->rfind('-', 0) != 0;
    if (!separator && !command) continue;
    std::vector<std::string> rest(separator ? word + 1 : word, words.end());
    words.erase(word, words.end());
    return rest;
  }
  return {};
}

// What the command line asked for.
struct Request {
  Display display;
  ActOptions act;
  ImagesOptions images;
  PullOptions pull;
  PruneOptions prune;
  CheckCommand check;
  TopOptions top;
  double interval = 2;  // seconds
  std::vector<std::string> command;
  std::vector<std::string> rest;  // what stood after "--"
  std::string key;
  bool yes = false;
  int status = 0;
};

template <typename Run>
CLI::App* addCommand(CLI::App& app, Request& request, const char* name, const char* text, const Run& run) {
  auto* command = app.add_subcommand(name, text);
  command->add_flag("--json", request.display.json, "Print JSON");
  command->callback([&request, run] { request.status = run(request); });
  return command;
}

void addHostCommands(CLI::App& app, Request& request) {
  addCommand(app, request, "doctor",
             "Check the host, one requirement at a time; needs no daemon. Exit status 1: an error was found",
             [](Request& r) { return runDoctor(r.display); });
  auto* check = addCommand(app, request, "check",
                           "Compare what userpod knows with what there is. Exit status 1: a difference is left",
                           [](Request& r) { return runCheck(r.check, r.display); });
  check->add_flag("--repair", request.check.repair, "Mend what is safe to mend");
  check->add_flag("--deep", request.check.deep, "Also count what layers hold and read all documents; takes long");
  check->add_flag("-y,--yes", request.check.yes, "Do not ask");
  auto* enter = addCommand(app, request, "enter", "Run a command inside the node: enter -- CMD ARG...", [](Request& r) {
    r.command.insert(r.command.end(), r.rest.begin(), r.rest.end());
    return runEnter(r.command, r.display);
  });
  enter->add_option("command", request.command, "The command, best after --");
  auto* reset = addCommand(app, request, "reset", "Stop all pods and remove all images, containers and their state",
                           [](Request& r) { return runReset(r.yes, r.display); });
  reset->add_flag("-y,--yes", request.yes, "Do not ask");
  addCommand(app, request, "version", "Print the version", [](Request& r) {
    if (r.display.json)
      fmt::print("{}\n", Json({{"version", USERPOD_VERSION}}).dump());
    else
      fmt::print("userpodctl {}\n", USERPOD_VERSION);
    return 0;
  });
}

void addReadCommands(CLI::App& app, Request& request) {
  addCommand(app, request, "status", "Show the daemon's state; does not start it",
             [](Request& r) { return runStatus(r.display); });
  addCommand(app, request, "pods", "List pods", [](Request& r) { return runPods(r.display); });
  addCommand(app, request, "containers", "List containers", [](Request& r) {
    return runContainers(r.display);
  })->alias("ps");
  addCommand(app, request, "inspect", "Show all properties of a pod, container or image, as JSON",
             [](Request& r) { return runInspect(r.key, {"Pod", "Container", "Image"}, r.display); })
      ->add_option("key", request.key, "Id, a prefix of one, or an image's name")
      ->required();
  addCommand(app, request, "network", "Show networks, addresses and host ports of pods, and the way packets take",
             [](Request& r) { return runNetwork(r.key, r.display); })
      ->add_option("pod", request.key, "Id or a prefix of one: tell it of this pod");
  auto* top = addCommand(app, request, "top", "Show what pods and containers use, as it changes", [](Request& r) {
    constexpr double kMillis = 1000;
    r.top.interval = std::chrono::milliseconds(static_cast<std::int64_t>(r.interval * kMillis));
    return runTop(r.top, r.display);
  });
  top->add_option("--sort", request.top.sort, "By what, the most first: cpu, memory, name, pids, io or net")
      ->check(CLI::IsMember({"cpu", "memory", "name", "pids", "io", "net"}));
  top->add_option("--interval", request.interval, "Seconds between two looks")->check(CLI::Range(0.1, 3600.0));
  top->add_flag("--once", request.top.once, "Print one table of two looks, and end");
}

CLI::App* addAct(CLI::App& app, Request& request, const char* name, const char* text,
                 int (*run)(const ActOptions&, const Display&)) {
  auto* command = addCommand(app, request, name, text, [run](Request& r) { return run(r.act, r.display); });
  command->add_option("key", request.act.keys, "Ids or prefixes of ids")->required();
  return command;
}

void addChangeCommands(CLI::App& app, Request& request) {
  constexpr const char* kManaged = "Also what a kubelet or another client of the CRI manages";
  addAct(app, request, "start", "Start created containers", runStart)
      ->add_flag("--force-managed", request.act.forceManaged, kManaged);
  addAct(app, request, "pause", "Freeze containers", runPause)
      ->add_flag("--force-managed", request.act.forceManaged, kManaged);
  addAct(app, request, "resume", "Let paused containers go on", runResume)
      ->add_flag("--force-managed", request.act.forceManaged, kManaged);
  auto* stop = addAct(app, request, "stop", "Stop containers or pods", runStop);
  stop->add_flag("--force-managed", request.act.forceManaged, kManaged);
  stop->add_option("-t,--time", request.act.grace, "Seconds between a container's stop signal and the kill")
      ->check(CLI::Range(0LL, 1'000'000'000LL));
  auto* remove = addAct(app, request, "rm", "Remove containers or pods", runRemove);
  remove->add_flag("--force-managed", request.act.forceManaged, kManaged);
  remove->add_flag("-f,--force", request.act.force, "Kill a running container first");
}

void addImages(CLI::App& app, Request& request, const char* name) {
  auto* images =
      addCommand(app, request, name, "List images", [](Request& r) { return runImages(r.images, r.display); });
  images->add_flag("--digests", request.images.digests, "Show digests beside the names");
  images->add_flag("-q,--quiet", request.images.quiet, "Print ids alone")->excludes("--json")->excludes("--digests");
  images->add_flag("--no-trunc", request.images.noTrunc, "Show whole ids and digests");
}

void addPull(CLI::App& app, Request& request) {
  auto* pull = addCommand(app, request, "pull", "Fetch an image; prints its id",
                          [](Request& r) { return runPull(r.pull, r.display); });
  pull->add_option("image", request.pull.image, "Name with tag or digest")->required();
  auto* username = pull->add_option("-u,--username", request.pull.username, "For the registry");
  auto* password =
      pull->add_flag("--password-stdin", request.pull.passwordStdin, "Read the password from standard input");
  username->needs(password);
  password->needs(username);
  pull->add_flag("--identity-token-stdin", request.pull.identityTokenStdin,
                 "Read an OAuth2 identity token from standard input")
      ->excludes(username);
  pull->add_flag("-q,--quiet", request.pull.quiet, "Print the id alone, and no progress")->excludes("--json");
}

void addPrune(CLI::App& app, Request& request) {
  auto* prune = addCommand(app, request, "prune", "Remove images without a tag that no container uses",
                           [](Request& r) { return runPruneImages(r.prune, r.display); });
  prune->add_flag("-a,--all", request.prune.all, "Every image that no container uses");
  prune->add_flag("-n,--dry-run", request.prune.dryRun, "Remove nothing, show what would go");
  prune->add_flag("-y,--yes", request.prune.yes, "Do not ask");
}

// Each as a command of its own where other tools have it, and all of them below "image".
void addImageCommands(CLI::App& app, Request& request) {
  addImages(app, request, "images");
  addPull(app, request);
  addAct(app, request, "rmi", "Remove images, with all their names", runRemoveImages);
  auto* image = app.add_subcommand("image", "Images: ls, pull, rm, prune, inspect");
  image->require_subcommand(1);
  addImages(*image, request, "ls");
  addPull(*image, request);
  addAct(*image, request, "rm", "Remove images, with all their names", runRemoveImages);
  addPrune(*image, request);
  addCommand(*image, request, "inspect", "Show all properties of an image, as JSON",
             [](Request& r) { return runInspect(r.key, {"Image"}, r.display); })
      ->add_option("image", request.key, "Id, a prefix of one, or a name")
      ->required();
}

int runMain(std::vector<std::string> words) {
  CLI::App app("userpodctl: pods and containers of this user, and the host they run on", "userpodctl");
  Request request;
  request.display.color = ::isatty(STDOUT_FILENO) == 1 && colorWanted();
  app.require_subcommand(1);
  app.set_version_flag("--version", "userpodctl " USERPOD_VERSION);
  addHostCommands(app, request);
  addReadCommands(app, request);
  addChangeCommands(app, request);
  addImageCommands(app, request);
  request.rest = splitOff(words);
  bool enter = !words.empty() && words.front() == "enter";
  if (!enter) words.insert(words.end(), request.rest.begin(), request.rest.end());
  // CLI11 takes its words from the end.
  std::vector<std::string> reversed(words.rbegin(), words.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    int status = app.exit(error);
    return status == 0 ? 0 : exitStatus(Code::InvalidArgument);
  }
  return request.status;
}

}  // namespace
}  // namespace userpod::ctl

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  return userpod::ctl::runMain(std::move(words));
}
