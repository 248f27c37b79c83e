// RunPodSandbox: what makes a pod, and the fields of PodSandboxConfig that are not namespaces.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <regex>
#include <set>
#include <sstream>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {
namespace {

namespace fs = std::filesystem;

v1::RunPodSandboxRequest runRequest(const v1::PodSandboxConfig& config, const std::string& handler = "") {
  v1::RunPodSandboxRequest request;
  *request.mutable_config() = config;
  request.set_runtime_handler(handler);
  return request;
}

v1::ListPodSandboxResponse podsWithId(const std::string& id) {
  return call(with<v1::ListPodSandboxRequest>([&](auto& r) { r.mutable_filter()->set_id(id); }));
}

std::function<void(v1::PodSandboxConfig&)> sysctl(const std::string& name, const std::string& value) {
  return [=](v1::PodSandboxConfig& config) { (*config.mutable_linux()->mutable_sysctls())[name] = value; };
}

void hostNetwork(v1::PodSandboxConfig& config) {
  namespacesOf(config)->set_network(v1::NODE);
}

std::string readSysctl(const Pod& pod, const std::string& path) {
  return Container(pod).text("cat /proc/sys/" + path);
}

}  // namespace

TEST(RunPodSandbox, IsReadyWhenItReturns) {
  PROMISE("1.1.2 ready");
  auto before = std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  Pod pod;
  auto status = pod.status();
  EXPECT_EQ(status.id(), pod.id());
  EXPECT_EQ(status.state(), v1::SANDBOX_READY);
  EXPECT_GE(status.created_at(), before - 1'000'000'000);
  EXPECT_LE(status.created_at(), std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
}

TEST(RunPodSandbox, MetadataIsKept) {
  PROMISE("1.0 names");
  Pod pod([](auto& c) { c.mutable_metadata()->set_attempt(7); });
  EXPECT_EQ(pod.status().metadata().SerializeAsString(), pod.config().metadata().SerializeAsString());
  auto listed = podsWithId(pod.id());
  ASSERT_EQ(listed.items_size(), 1);
  EXPECT_EQ(listed.items(0).metadata().SerializeAsString(), pod.config().metadata().SerializeAsString());
}

TEST(RunPodSandbox, MissingConfigOrMetadataIsRefused) {
  PROMISE("1.0 names");
  expectFailure(v1::RunPodSandboxRequest(), {StatusCode::INVALID_ARGUMENT, StatusCode::UNKNOWN}, "config");
  expectFailure(runRequest(podConfig([](auto& c) { c.clear_metadata(); })),
                {StatusCode::INVALID_ARGUMENT, StatusCode::UNKNOWN}, "metadata");
  expectFailure(runRequest(podConfig([](auto& c) { c.mutable_metadata()->clear_name(); })),
                {StatusCode::INVALID_ARGUMENT, StatusCode::UNKNOWN}, "name");
}

TEST(RunPodSandbox, SameMetadataAgainIsTheSamePod) {
  PROMISE("1.0 duplicates");
  Pod pod;
  EXPECT_EQ(runPod(pod.config()), pod.id());
  EXPECT_EQ(pod.status().state(), v1::SANDBOX_READY);
}

TEST(RunPodSandbox, SameMetadataAtOnceIsOnePod) {
  PROMISE("1.0 duplicates");
  auto config = podConfig();
  auto ids = atOnce(8, [&] { return runPod(config); });
  EXPECT_THAT(ids, testing::Each(ids[0]));
  removePod(ids[0]);
}

TEST(RunPodSandbox, ManyAtOnceAreManyPods) {
  PROMISE("1.1.2 ready");
  auto pods = atOnce(12, [] { return std::make_shared<Pod>(); });
  std::set<std::string> ids, addresses;
  for (const auto& pod : pods) {
    EXPECT_TRUE(ids.insert(pod->id()).second);
    EXPECT_TRUE(addresses.insert(pod->status().network().ip()).second) << pod->status().network().ip();
  }
}

TEST(RunPodSandbox, RetryFindsWhatALostClientMade) {
  PROMISE("1.1.2 retry");
  auto config = podConfig();
  for (int patient = 1; patient <= 12; patient += 2) attempt(runRequest(config), milliseconds(patient));
  auto id = runPod(config);
  v1::ListPodSandboxRequest list;
  (*list.mutable_filter()->mutable_label_selector())[kLabel] = "1";
  auto listed = call(list);
  int found = 0;
  for (const auto& item : listed.items()) found += item.metadata().name() == config.metadata().name() ? 1 : 0;
  EXPECT_EQ(found, 1);
  EXPECT_EQ(podStatus(id).state(), v1::SANDBOX_READY);
  removePod(id);
}

TEST(RunPodSandbox, AnotherAttemptIsAnotherPod) {
  PROMISE("1.0 attempts");
  Pod pod;
  auto next = pod.config();
  next.mutable_metadata()->set_attempt(1);
  Pod other(next, "");
  EXPECT_NE(other.id(), pod.id());
  EXPECT_EQ(pod.status().metadata().attempt(), 0U);
  EXPECT_EQ(other.status().metadata().attempt(), 1U);
}

TEST(RunPodSandbox, FailureLeavesNothing) {
  PROMISE("1.1.2 failure");
  auto config = podConfig(sysctl("net.ipv4.ip_forward", "nonsense"));
  expectFailure(runRequest(config));
  v1::ListPodSandboxRequest list;
  (*list.mutable_filter()->mutable_label_selector())[kLabel] = "1";
  auto listed = call(list);
  for (const auto& item : listed.items()) EXPECT_NE(item.metadata().name(), config.metadata().name());
  config.mutable_linux()->clear_sysctls();
  Pod pod(config, "");
  EXPECT_EQ(pod.status().state(), v1::SANDBOX_READY);
}

// ---- Host name

TEST(RunPodSandbox, HostnameIsThatOfItsContainers) {
  PROMISE("1.1.2 hostname");
  Pod pod([](auto& c) { c.set_hostname("a-name"); });
  Container container(pod);
  EXPECT_EQ(container.text("hostname"), "a-name");
  EXPECT_EQ(container.text("cat /etc/hostname"), "a-name");
  EXPECT_EQ(container.text("echo $HOSTNAME"), "a-name");
  EXPECT_NE(namespaceOf(container.pid(), "uts"), namespaceOf(getpid(), "uts"));
}

TEST(RunPodSandbox, EmptyHostnameBecomesTheStartOfTheId) {
  PROMISE("1.1.2 no hostname");
  Pod pod;
  auto name = Container(pod).text("hostname");
  EXPECT_EQ(name, pod.id().substr(0, 12));
}

TEST(RunPodSandbox, HostNetworkWithoutHostnameHasTheNodes) {
  PROMISE("1.1.2 no hostname");
  Pod pod(hostNetwork);
  std::string own(256, '\0');
  gethostname(own.data(), own.size() - 1);
  EXPECT_EQ(Container(pod).text("hostname"), own.c_str());
}

TEST(RunPodSandbox, UnusableHostnameIsRefused) {
  PROMISE("1.1.2 hostname");
  for (const auto& name : {std::string("two words"), std::string(65, 'a'), std::string("a\nb")})
    expectFailure(runRequest(podConfig([&](auto& c) { c.set_hostname(name); })), {StatusCode::INVALID_ARGUMENT},
                  "hostname");
}

// ---- User

TEST(RunPodSandbox, GroupWithoutUserIsRefused) {
  PROMISE("1.1.2 group");
  auto config =
      podConfig([](auto& c) { c.mutable_linux()->mutable_security_context()->mutable_run_as_group()->set_value(5); });
  expectFailure(runRequest(config), {StatusCode::INVALID_ARGUMENT}, "run_as_group");
}

TEST(RunPodSandbox, SecurityContextOfThePodIsNotThatOfItsContainers) {
  PROMISE("1.3 pod security context");
  Pod pod([](auto& c) {
    auto* security = c.mutable_linux()->mutable_security_context();
    security->mutable_run_as_user()->set_value(1000);
    security->mutable_run_as_group()->set_value(1001);
    security->add_supplemental_groups(1002);
    security->set_supplemental_groups_policy(v1::Strict);
    security->set_readonly_rootfs(true);
    security->mutable_seccomp()->set_profile_type(v1::SecurityProfile::RuntimeDefault);
    security->mutable_apparmor()->set_profile_type(v1::SecurityProfile::Unconfined);
  });
  EXPECT_EQ(Container(pod).text("id -u; id -g; touch /written && echo writable"), "0\n0\nwritable");
}

TEST(RunPodSandbox, PrivilegedContainersNeedAPrivilegedPod) {
  PROMISE("1.3 privileged pod");
  auto privileged = [](auto& c) { c.mutable_linux()->mutable_security_context()->set_privileged(true); };
  Pod plain;
  expectFailure(createRequest(plain, containerConfig(plain, privileged)), {}, "privileged");
  Pod pod(privileged);
  // All that there are here: root of a sandboxed machine may lack some.
  auto own = readFile("/proc/self/status");
  own = own.substr(own.find("CapBnd:\t") + 8, 16);
  EXPECT_EQ(Container(pod, privileged).text("grep CapBnd /proc/self/status | cut -f2"), own);
}

// ---- Logs

TEST(RunPodSandbox, LogDirectoryIsMade) {
  PROMISE("1.1.2 log directory");
  Pod pod;
  struct stat made{};
  ASSERT_EQ(stat(pod.config().log_directory().c_str(), &made), 0);
  EXPECT_TRUE(S_ISDIR(made.st_mode));
  EXPECT_EQ(made.st_mode & 07777, 0700U);
}

TEST(RunPodSandbox, LogDirectoryThatIsThereStaysAsItIs) {
  PROMISE("1.1.2 log directory");
  auto directory = scratchDirectory("logs");
  chmod(directory.c_str(), 0751);
  writeFile(directory + "/kept", "kept");
  {
    Pod pod([&](auto& c) { c.set_log_directory(directory); });
    Container(pod).up();
  }
  struct stat made{};
  ASSERT_EQ(stat(directory.c_str(), &made), 0);
  EXPECT_EQ(made.st_mode & 07777, 0751U);
  EXPECT_EQ(readFile(directory + "/kept"), "kept");
}

TEST(RunPodSandbox, RelativeLogDirectoryIsRefused) {
  PROMISE("1.1.2 log directory");
  expectFailure(runRequest(podConfig([](auto& c) { c.set_log_directory("logs/here"); })), {},
                "log_?directory|absolute");
}

TEST(RunPodSandbox, EmptyLogDirectoryIsTheRuntimesOwn) {
  PROMISE("1.1.2 log directory");
  Pod pod([](auto& c) { c.clear_log_directory(); });
  Container container(pod, shell("echo here"));
  container.ended();
  auto path = container.status().log_path();
  ASSERT_EQ(path.substr(0, 1), "/");
  EXPECT_EQ(logText(readLog(path)), "here\n");
  fs::remove_all(fs::path(path).parent_path());
}

// ---- DNS

TEST(RunPodSandbox, DnsIsWrittenToResolvConf) {
  PROMISE("1.3 dns");
  Pod pod([](auto& c) {
    auto* dns = c.mutable_dns_config();
    for (const auto* server : {"192.0.2.53", "2001:db8::53"}) dns->add_servers(server);
    for (const auto* search : {"example.org", "svc.cluster.local"}) dns->add_searches(search);
    for (const auto* option : {"ndots:3", "rotate"}) dns->add_options(option);
  });
  std::istringstream text(Container(pod).text("cat /etc/resolv.conf"));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);)
    if (!line.empty() && line[0] != '#') lines.push_back(line);
  EXPECT_THAT(lines, testing::UnorderedElementsAre("nameserver 192.0.2.53", "nameserver 2001:db8::53",
                                                   "search example.org svc.cluster.local", "options ndots:3 rotate"));
}

TEST(RunPodSandbox, WithoutDnsItIsTheNodes) {
  PROMISE("1.3 dns");
  std::vector<std::string> servers[2];
  Pod pod([](auto& c) { c.clear_dns_config(); });
  std::istringstream texts[] = {std::istringstream(readFile("/etc/resolv.conf")),
                                std::istringstream(Container(pod).text("cat /etc/resolv.conf"))};
  for (int which : {0, 1})
    for (std::string line; std::getline(texts[which], line);)
      if (line.rfind("nameserver", 0) == 0 && line.find(" 127.") == std::string::npos) servers[which].push_back(line);
  EXPECT_FALSE(servers[1].empty());
  // userpod's node asks its uplink's resolver last, pods ask that alone: it follows the host.
  constexpr const char* kUplink = "nameserver 10.0.2.3";
  if (!servers[0].empty() && servers[0].back() == kUplink) servers[0] = {kUplink};
  if (!servers[0].empty()) {
    EXPECT_EQ(servers[0], servers[1]);
  }
}

TEST(RunPodSandbox, ValuesOfDnsCannotForgeLines) {
  PROMISE("1.3 dns");
  expectFailure(runRequest(podConfig([](auto& c) { c.mutable_dns_config()->add_searches("a\nnameserver 192.0.2.1"); })),
                {}, "dns_config|search");
}

// ---- Sysctls

TEST(RunPodSandbox, SysctlsOfItsNamespacesAreSet) {
  PROMISE("1.1.2 sysctls");
  Pod pod(sysctl("net.ipv4.ip_local_port_range", "20000\t30000"), sysctl("net/ipv4/ip_unprivileged_port_start", "80"),
          sysctl("kernel.shm_rmid_forced", "1"), sysctl("kernel.msgmax", "12345"));
  Container container(pod);
  EXPECT_EQ(container.text("cd /proc/sys; cat net/ipv4/ip_local_port_range net/ipv4/ip_unprivileged_port_start "
                           "kernel/shm_rmid_forced kernel/msgmax"),
            "20000\t30000\n80\n1\n12345");
}

TEST(RunPodSandbox, BadValueOfSysctlFailsByName) {
  PROMISE("1.1.2 sysctls");
  expectFailure(runRequest(podConfig(sysctl("net.ipv4.ip_forward", "nonsense"))), {}, "net.ipv4.ip_forward|ip_forward");
}

TEST(RunPodSandbox, SysctlOfTheWholeMachineIsRefusedWithTheReason) {
  PROMISE("1.1.2 sysctls");
  for (const auto* name : {"kernel.panic", "vm.swappiness", "fs.file-max"}) {
    auto before = readFile("/proc/sys/" + std::regex_replace(std::string(name), std::regex("\\."), "/"));
    expectFailure(runRequest(podConfig(sysctl(name, "1"))), {}, std::string(name) + ".*(namespace|whole)");
    EXPECT_EQ(readFile("/proc/sys/" + std::regex_replace(std::string(name), std::regex("\\."), "/")), before);
  }
}

TEST(RunPodSandbox, SysctlThatIsNoneIsRefused) {
  PROMISE("1.1.2 sysctls");
  for (const auto* name : {"net.no_such_thing", "net.ipv4/../../kernel.panic", "net"})
    expectFailure(runRequest(podConfig(sysctl(name, "1"))), {}, "sysctl");
}

TEST(RunPodSandbox, SysctlOfANamespaceThatIsTheNodesIsLeftOut) {
  PROMISE("1.1.2 sysctls of the node");
  auto network = readFile("/proc/sys/net/ipv4/ip_default_ttl");
  auto ipc = readFile("/proc/sys/kernel/msgmax");
  {
    Pod pod(
        hostNetwork, [](auto& c) { namespacesOf(c)->set_ipc(v1::NODE); }, sysctl("net.ipv4.ip_default_ttl", "33"),
        sysctl("kernel.msgmax", "4321"));
    EXPECT_EQ(readSysctl(pod, "kernel/msgmax") + "\n", ipc);
  }
  EXPECT_EQ(readFile("/proc/sys/net/ipv4/ip_default_ttl"), network);
  EXPECT_EQ(readFile("/proc/sys/kernel/msgmax"), ipc);
}

// ---- Runtime handlers

TEST(RunPodSandbox, UnknownRuntimeHandlerIsRefused) {
  PROMISE("1.1.2 handler");
  expectFailure(runRequest(podConfig(), "no-such-handler"), {}, "no-such-handler");
}

TEST(RunPodSandbox, EveryHandlerOfStatusRunsPods) {
  PROMISE("1.1.2 handler");
  auto handlers = call(v1::StatusRequest());
  if (handlers.runtime_handlers().empty()) GTEST_SKIP() << "the status names no runtime handlers";
  for (const auto& handler : handlers.runtime_handlers()) {
    Pod pod(podConfig(), handler.name());
    EXPECT_EQ(pod.status().runtime_handler(), handler.name());
    auto listed = podsWithId(pod.id());
    ASSERT_EQ(listed.items_size(), 1);
    EXPECT_EQ(listed.items(0).runtime_handler(), handler.name());
    Container container(pod);
    EXPECT_EQ(container.text("echo runs"), "runs") << handler.name();
    container.up().stop(10);
    EXPECT_EQ(container.status().exit_code(), 0);
  }
}

// ---- Control groups

TEST(RunPodSandbox, CgroupParentHoldsItsContainers) {
  PROMISE("1.3 cgroup parent");
  auto parent = "/kubepods/burstable/" + uniqueName("pod");
  std::string path;
  {
    Pod pod([&](auto& c) { c.mutable_linux()->set_cgroup_parent(parent); });
    Container one(pod), two(pod);
    path = fs::path(cgroupOf(one.pid())).parent_path();
    EXPECT_THAT(cgroupOf(one.pid()), testing::HasSubstr(parent + "/"));
    EXPECT_THAT(cgroupOf(two.pid()), testing::HasSubstr(parent + "/"));
    EXPECT_NE(cgroupOf(one.pid()), cgroupOf(two.pid()));
  }
  // It is the caller's, who made it or will remove it: nothing of the pod may be left in it.
  if (!fs::exists(path)) return;
  for (const auto& entry : fs::directory_iterator(path)) EXPECT_FALSE(entry.is_directory()) << entry.path();
  EXPECT_EQ(rmdir(path.c_str()), 0);
}

TEST(RunPodSandbox, CgroupParentCannotLeaveTheRuntimes) {
  PROMISE("1.3 cgroup parent");
  expectFailure(runRequest(podConfig([](auto& c) { c.mutable_linux()->set_cgroup_parent("/kubepods/../../escape"); })),
                {}, "cgroup_?parent");
}

TEST(RunPodSandbox, OverheadAndResourcesDoNotLimitItsContainers) {
  PROMISE("1.3 pod resources");
  Pod pod([](auto& c) {
    c.mutable_linux()->mutable_overhead()->set_memory_limit_in_bytes(64 << 20);
    c.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(512 << 20);
    c.mutable_linux()->mutable_resources()->set_cpu_shares(512);
  });
  EXPECT_EQ(Container(pod).text("echo runs"), "runs");
}

// ---- Ports

TEST(RunPodSandbox, HostPortOfZeroIsNoMapping) {
  PROMISE("1.3 ports");
  Pod pod([](auto& c) {
    auto* port = c.add_port_mappings();
    port->set_container_port(8080);
    port->set_protocol(v1::UDP);
  });
  EXPECT_EQ(pod.status().state(), v1::SANDBOX_READY);
}

TEST(RunPodSandbox, ImpossiblePortIsRefused) {
  PROMISE("1.3 ports");
  auto port = [](int container, int host, const std::string& ip) {
    return runRequest(podConfig([&](auto& c) {
      auto* mapping = c.add_port_mappings();
      mapping->set_container_port(container);
      mapping->set_host_port(host);
      mapping->set_host_ip(ip);
    }));
  };
  expectFailure(port(70000, 0, ""), {}, "port");
  expectFailure(port(80, -1, ""), {}, "port");
  expectFailure(port(80, 0, "not-an-address"), {}, "host_?ip|address");
}

// ---- Labels and annotations

TEST(RunPodSandbox, LabelsAndAnnotationsComeBackByteForByte) {
  PROMISE("1.0 labels");
  std::map<std::string, std::string> labels{{"a/b.c_d", ""}, {"é", "ünï \"x\""}, {"k", std::string(4000, 'v')}};
  std::map<std::string, std::string> notes{{"empty", ""},
                                           {"lines", "a\nb\r\n\t\\ "},
                                           {"json", R"({"a":[1,"\u0000"]})"},
                                           {"large", std::string(200'000, 'x')},
                                           {"", "no key"}};
  Pod pod([&](auto& c) {
    c.mutable_labels()->insert(labels.begin(), labels.end());
    c.mutable_annotations()->insert(notes.begin(), notes.end());
  });
  labels[kLabel] = "1";
  auto check = [&](const auto& shown) {
    for (const auto& [key, value] : labels) EXPECT_EQ(shown.labels().at(key), value) << key;
    EXPECT_EQ((std::map<std::string, std::string>(shown.annotations().begin(), shown.annotations().end())), notes);
  };
  check(pod.status());
  auto listed = podsWithId(pod.id());
  ASSERT_EQ(listed.items_size(), 1);
  check(listed.items(0));
}

TEST(RunPodSandbox, LabelOfMoreThan4096BytesIsRefused) {
  PROMISE("1.0 labels");
  expectFailure(runRequest(podConfig([](auto& c) { (*c.mutable_labels())["key"] = std::string(4096, 'v'); })), {},
                "label");
}

}  // namespace userpod::conformance
