// The programs that userpod starts, the kernel and systemd, with their versions.
#include <fmt/core.h>
#include <sys/utsname.h>

#include <chrono>

#include "daemon/sys/child.hpp"
#include "daemon/sys/util.hpp"
#include "userns/diagnose_checks.hpp"
#include "userns/uplink.hpp"

namespace userpod::diagnose {
namespace {

struct Program {
  std::string name;
  std::string path;  // empty: found in the usual directories
  Version minimum{};
  Check::Severity absence = Check::Severity::Error;
  std::string use;  // what lacks without it
};

Check report(const Program& program, std::string message, std::vector<std::string> hints) {
  return {program.name, program.absence, std::move(message), std::move(hints)};
}

Check checkProgram(const Program& program) {
  std::string package = program.name == "systemctl" ? "systemd" : program.name;
  std::vector<std::string> hints = {"sudo apt install " + package};
  std::string path = program.path;
  if (path.empty()) {
    auto found = findProgram(program.name);
    if (!found) return report(program, fmt::format("{} is not installed: {}", program.name, program.use), hints);
    path = *found;
  }
  SpawnOptions options;
  options.argv = {path, "--version"};
  options.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"};
  auto output = run(options, std::chrono::seconds(5));
  if (!output) return report(program, fmt::format("{}: {}", output.error().text(), program.use), hints);
  // fuse-overlayfs names the version of fusermount first.
  std::string_view text = output->out;
  if (auto at = text.find(program.name); at != std::string_view::npos) text = text.substr(at);
  auto version = findVersion(text);
  if (!version) return report(program, fmt::format("{} --version says nothing that is a version", path), hints);
  if (*version < program.minimum)
    return {program.name,
            Check::Severity::Warning,
            fmt::format("{} has version {}; userpod is made for {} and later", path, versionText(*version),
                        versionText(program.minimum)),
            {"install a newer " + package + " and name its path in userpod.toml(5)"}};
  return ok(program.name, fmt::format("{} {}", path, versionText(*version)));
}

Check checkKernel() {
  constexpr const char* kName = "kernel";
  constexpr Version kMinimum = {5, 11, 0};  // overlay in user namespaces
  utsname names{};
  (void)::uname(&names);
  auto version = findVersion(names.release);
  if (!version) return warning(kName, fmt::format("release {} is not understood", names.release), {});
  if (*version < kMinimum)
    return warning(
        kName, fmt::format("{} is older than {}: no overlay in user namespaces", names.release, versionText(kMinimum)),
        {"boot a newer kernel"});
  return ok(kName, names.release);
}

Check checkSystemd() {
  constexpr const char* kName = "systemd";
  Program program{"systemctl", "", {249, 0, 0}, Check::Severity::Error, "userpod runs as a unit of systemd --user"};
  Check check = checkProgram(program);
  check.name = kName;
  return check;
}

std::vector<Program> programs(const Settings& settings) {
  std::vector<Program> list;
  for (const auto& [name, handler] : settings.runtimes) {
    Version minimum = name == "crun" ? Version{1, 8, 0} : Version{};
    bool isDefault = name == settings.defaultRuntime;
    list.push_back({name, handler.path, minimum, isDefault ? Check::Severity::Error : Check::Severity::Warning,
                    isDefault ? "no container can run" : "pods that ask for this runtime handler cannot run"});
  }
  list.push_back({"conmon", settings.conmon, {2, 1, 0}, Check::Severity::Error, "no container can run"});
  if (settings.storageDriver == "fuse-overlayfs")
    list.push_back({"fuse-overlayfs", "", {1, 7, 0}, Check::Severity::Error, "the storage-driver of userpod.toml"});
  if (settings.storageDriver == "auto")
    list.push_back(
        {"fuse-overlayfs", "", {1, 7, 0}, Check::Severity::Info, "where native overlay fails, images are copied"});
  // In place of it pasta may do, as the check "uplink" tells.
  if (settings.uplink == "auto" || settings.uplink == "slirp4netns")
    list.push_back({"slirp4netns",
                    settings.slirp4netns,
                    {1, 0, 0},
                    settings.uplink == "auto" ? Check::Severity::Info : Check::Severity::Warning,
                    settings.uplink == "auto" ? "it carries the pods' traffic where pasta is not able to"
                                              : "pods have no way to the outside"});
  return list;
}

Check checkUplink(const Scene& scene) {
  constexpr const char* kName = "uplink";
  const Settings& settings = scene.settings;
  if (settings.uplink == "none") return ok(kName, "none: uplink = \"none\"");
  const std::string loopback = settings.hostLoopback ? "; pods reach the host's 127.0.0.1 by 10.0.2.2" : "";
  // What a node that runs has, else what one would have.
  UplinkState state = readUplinkState(scene.paths);
  if (state.phase == UplinkState::Phase::Up)
    return ok(kName, fmt::format("{} is up ({}){}", state.program, state.choice, loopback));
  UplinkProgram program = chooseUplink(settings);
  const std::vector<std::string> hints = {"sudo apt install slirp4netns, or passt of Debian 13 and later",
                                          "systemctl --user restart userpod-node.service"};
  if (program.path.empty()) return warning(kName, "pods have no way to the outside: " + program.reason, hints);
  if (!state.program.empty())
    return warning(kName, fmt::format("{} is down: {}", state.program, state.reason),
                   {"journalctl --user -u userpod-node.service"});
  return ok(kName, fmt::format("{} ({}){}", program.path, program.reason, loopback));
}

}  // namespace

std::vector<Check> checkPrograms(const Scene& scene) {
  std::vector<Check> checks;
  for (const auto& program : programs(scene.settings)) checks.push_back(checkProgram(program));
  checks.push_back(checkUplink(scene));
  checks.push_back(checkSystemd());
  checks.push_back(checkKernel());
  return checks;
}

}  // namespace userpod::diagnose
