#include "userns/uplink_program.hpp"

#include <chrono>

#include "daemon/sys/child.hpp"

namespace userpod {
namespace {

constexpr const char* kTap = "tap0";

// Those that tell an able pasta from another; not all that are used: versions of 2025 lose the end of their help where
// it goes to a pipe. The last two are the youngest (2024). Without them pasta needs a host that is online when it
// starts, and goes by one interface of it from then on.
constexpr const char* kPastaOptions[] = {"--foreground",  "--pid",      "--ns-ifname",        "--interface",
                                         "--address",     "--netmask",  "--gateway",          "--mtu",
                                         "--dns-forward", "--dns-host", "--map-host-loopback"};

bool namesOption(std::string_view help, std::string_view option) {
  for (auto at = help.find(option); at != std::string_view::npos; at = help.find(option, at + 1)) {
    std::string_view rest = help.substr(at + option.size());
    if (rest.empty() || std::string_view(" \t\n,=").find(rest.front()) != std::string_view::npos) return true;
  }
  return false;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

Result<std::string> pathOf(const char* name, const std::string& configured) {
  if (!configured.empty()) return configured;
  return findProgram(name);
}

std::string tooOld(const std::string& path, const std::vector<std::string>& missing) {
  return path + " is too old: it lacks " + joined(missing);
}

// Of the options, those that a program's file does not even hold the name of. Versions of 2023 send all that --help
// says to the journal too, a hundred lines: they are told from others without being started.
std::vector<std::string> unknownToFile(const std::string& path) {
  std::vector<std::string> missing;
  auto content = readFile(path, 16U << 20);
  if (!content || content->starts_with("#!")) return missing;  // a script may start any other program
  for (std::string_view option : kPastaOptions)
    if (content->find(option.substr(2)) == std::string::npos) missing.emplace_back(option);
  return missing;
}

// Empty: it is able. Else why not.
std::string problemOfPasta(const std::string& path) {
  if (auto missing = unknownToFile(path); !missing.empty()) return tooOld(path, missing);
  SpawnOptions options;
  options.argv = {path, "--help"};
  options.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"};
  auto output = run(options, std::chrono::seconds(5));
  if (!output) return output.error().text();
  // Earlier versions print it as messages.
  auto missing = missingPastaOptions(output->out + output->err);
  if (missing.empty()) return {};
  if (missing.size() == std::size(kPastaOptions)) return path + " --help names no option of pasta";
  return tooOld(path, missing);
}

UplinkProgram withoutProgram(const std::string& why) {
  return {"", "", why};
}

std::vector<std::string> slirpCommand(const UplinkProgram& program, const UplinkPlan& plan) {
  // By PID and without -c: the tap is ready, and a second -c on it fails.
  std::vector<std::string> words = {program.path,       "--mtu=65520",  "--enable-sandbox",
                                    "--enable-seccomp", "--ready-fd=3", "--exit-fd=4"};
  if (!plan.hostLoopback) words.emplace_back("--disable-host-loopback");
  if (plan.prefix6 == kUplinkPrefix6) words.emplace_back("--enable-ipv6");
  words.insert(words.end(), {std::to_string(plan.node), kTap});
  return words;
}

std::vector<std::string> pastaCommand(const UplinkProgram& program, const UplinkPlan& plan) {
  bool v6 = !plan.prefix6.empty();
  // Without --config-net the tap stays as the holder made it. The interface it takes for a model is lo, which is there
  // on a host that is offline too; all that it would copy from it is given. Closed ports are not its business.
  std::vector<std::string> words = {program.path,
                                    "--foreground",
                                    "--quiet",
                                    "--pid",
                                    "/proc/self/fd/1",
                                    "--ns-ifname",
                                    kTap,
                                    "--interface",
                                    "lo",
                                    "--mtu",
                                    "65520",
                                    "--address",
                                    "10.0.2.100",
                                    "--netmask",
                                    "24",
                                    "--gateway",
                                    std::string(kUplinkHost),
                                    "--dns-forward",
                                    std::string(kUplinkResolver),
                                    "--no-dhcp",
                                    "--no-dhcpv6",
                                    "--no-ra",
                                    "--no-netns-quit",
                                    "--tcp-ports",
                                    "none",
                                    "--udp-ports",
                                    "none",
                                    "--tcp-ns",
                                    "none",
                                    "--udp-ns",
                                    "none",
                                    "--map-host-loopback",
                                    plan.hostLoopback ? std::string(kUplinkHost) : "none"};
  auto add = [&](const char* option, const std::string& value) { words.insert(words.end(), {option, value}); };
  if (!plan.servers.v4.empty()) add("--dns-host", plan.servers.v4);
  if (v6) {
    // lo has no link-local address to be taken for its own.
    add("--address", plan.prefix6 + "100");
    add("--gateway", "fe80::2");
    add("--dns-forward", plan.prefix6 + "3");
    if (!plan.servers.v6.empty()) add("--dns-host", plan.servers.v6);
    if (plan.hostLoopback) add("--map-host-loopback", plan.prefix6 + "2");
  } else {
    words.emplace_back("--ipv4-only");
  }
  words.push_back(std::to_string(plan.node));
  return words;
}

}  // namespace

std::vector<std::string> missingPastaOptions(std::string_view help) {
  std::vector<std::string> missing;
  for (const char* option : kPastaOptions)
    if (!namesOption(help, option)) missing.emplace_back(option);
  return missing;
}

UplinkProgram chooseUplink(const Settings& settings) {
  auto slirp = pathOf("slirp4netns", settings.slirp4netns);
  if (settings.uplink == "slirp4netns") {
    if (!slirp) return withoutProgram(slirp.error().text());
    return {"slirp4netns", *slirp, "uplink = \"slirp4netns\""};
  }
  auto pasta = pathOf("pasta", settings.pasta);
  std::string problem = pasta ? problemOfPasta(*pasta) : "pasta is not installed";
  if (settings.uplink == "pasta") {
    if (!problem.empty())
      return withoutProgram(problem + "; install passt from 2024 or newer, or set uplink = \"auto\"");
    return {"pasta", *pasta, "uplink = \"pasta\""};
  }
  if (problem.empty()) return {"pasta", *pasta, "it has all that the uplink needs"};
  if (!slirp) return withoutProgram(problem + "; " + slirp.error().text());
  return {"slirp4netns", *slirp, problem};
}

std::vector<std::string> uplinkCommand(const UplinkProgram& program, const UplinkPlan& plan) {
  return program.name == "pasta" ? pastaCommand(program, plan) : slirpCommand(program, plan);
}

}  // namespace userpod
