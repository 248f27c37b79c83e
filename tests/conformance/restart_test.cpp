// A restart of the runtime changes nothing that a client can see. Alone, as all other tests would see it too.
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <signal.h>

#include <cstdlib>
#include <memory>
#include <set>

#include "tests/conformance/edits.hpp"

namespace userpod::conformance {
namespace {

// The same bytes for the same message: maps in the order of their keys.
template <typename Message>
std::string bytes(const Message& message) {
  std::string text;
  google::protobuf::io::StringOutputStream stream(&text);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return text;
}

void restart() {
  ASSERT_EQ(std::system(options().restart.c_str()), 0) << options().restart;
  waitUntil([] { return attempt(v1::VersionRequest()).status.ok(); }, "an answer of the runtime", seconds(30));
}

// Of some pods, all that lists and status tell: a name, and the bytes.
using Seen = std::map<std::string, std::string>;
Seen lookAt(const std::vector<std::unique_ptr<Pod>>& pods) {
  Seen seen;
  for (const auto& pod : pods) {
    const auto& name = pod->config().metadata().name();
    auto status = ofPod<v1::PodSandboxStatusRequest>(pod->id());
    status.set_verbose(true);
    auto shown = call(status);
    shown.clear_timestamp();
    seen["status of pod " + name] = bytes(shown);
    auto list = with<v1::ListPodSandboxRequest>([&](auto& r) { r.mutable_filter()->set_id(pod->id()); });
    seen["list of pod " + name] = bytes(call(list));
    auto containers =
        call(with<v1::ListContainersRequest>([&](auto& r) { r.mutable_filter()->set_pod_sandbox_id(pod->id()); }));
    seen["list of containers of " + name] = bytes(containers);
    for (const auto& container : containers.containers()) {
      auto request = ofContainer<v1::ContainerStatusRequest>(container.id());
      request.set_verbose(true);
      seen["status of container " + container.metadata().name()] = bytes(call(request));
    }
  }
  return seen;
}

void expectEqual(const Seen& after, const Seen& before) {
  EXPECT_EQ(after.size(), before.size());
  for (const auto& [what, text] : before) {
    auto found = after.find(what);
    if (found == after.end()) {
      ADD_FAILURE() << what << " is gone";
    } else if (found->second != text) {
      auto differ = std::mismatch(text.begin(), text.end(), found->second.begin(), found->second.end());
      auto at = static_cast<std::size_t>(differ.first - text.begin());
      auto from = at < 60 ? 0 : at - 60;
      ADD_FAILURE() << what << " differs at byte " << at << ":\n"
                    << testing::PrintToString(text.substr(from, 160)) << "\n"
                    << testing::PrintToString(found->second.substr(from, 160));
    }
  }
}

void everyField(v1::PodSandboxConfig& c) {
  c.set_hostname("every-field");
  c.mutable_metadata()->set_attempt(4);
  c.mutable_dns_config()->add_servers("192.0.2.53");
  c.mutable_dns_config()->add_searches("example.org");
  c.mutable_dns_config()->add_options("ndots:2");
  (*c.mutable_labels())["a/b"] = "";
  (*c.mutable_annotations())["note"] = "lines\nand \"ünï\"\t\\";
  c.add_port_mappings()->set_container_port(80);
  auto& linux = *c.mutable_linux();
  (*linux.mutable_sysctls())["net.ipv4.ip_unprivileged_port_start"] = "80";
  linux.mutable_overhead()->set_memory_limit_in_bytes(16 << 20);
  linux.mutable_resources()->set_cpu_shares(512);
  auto& security = *linux.mutable_security_context();
  security.mutable_run_as_user()->set_value(1000);
  security.mutable_run_as_group()->set_value(1001);
  security.add_supplemental_groups(1002);
  security.set_privileged(true);
  security.mutable_namespace_options()->set_pid(v1::POD);
}

void everyField(Config& c, const std::string& directory) {
  c.mutable_metadata()->set_attempt(9);
  c.mutable_image()->set_user_specified_image(imageName("test/busybox:1"));
  c.set_working_dir("/work");
  c.set_stop_signal(v1::SIGNAL_SIGUSR1);
  variable("NAME", "value")(c);
  mount(directory, "/mnt", readOnly)(c);
  mount(directory, "/slave", [](auto& m) { m.set_propagation(v1::PROPAGATION_HOST_TO_CONTAINER); })(c);
  auto* device = c.add_devices();
  device->set_host_path("/dev/fuse");
  device->set_container_path("/dev/fuse");
  device->set_permissions("rwm");
  (*c.mutable_labels())["app"] = "x";
  (*c.mutable_annotations())["note"] = std::string(100'000, 'x');
  auto& resources = *c.mutable_linux()->mutable_resources();
  resources.set_cpu_shares(512);
  resources.set_memory_limit_in_bytes(256 << 20);
  resources.set_oom_score_adj(800);
  (*resources.mutable_unified())["memory.high"] = "200000000";
  auto& security = *securityOf(c);
  security.mutable_run_as_user()->set_value(1234);
  security.mutable_run_as_group()->set_value(1235);
  security.add_supplemental_groups(7);
  security.set_supplemental_groups_policy(v1::Strict);
  security.mutable_capabilities()->add_add_capabilities("NET_RAW");
  security.mutable_capabilities()->add_drop_capabilities("KILL");
  security.set_readonly_rootfs(true);
  security.set_no_new_privs(true);
  security.mutable_seccomp()->set_profile_type(v1::SecurityProfile::RuntimeDefault);
  security.add_masked_paths("/proc/acpi");
  security.add_readonly_paths("/proc/bus");
}

}  // namespace

TEST(AloneRestart, ListsAndStatusAreTheSame) {
  PROMISE("1.5 restart");
  if (options().restart.empty()) GTEST_SKIP() << "no --restart command";
  std::vector<std::unique_ptr<Pod>> pods;
  auto pod = [&](auto... edits) -> const Pod& { return *pods.emplace_back(std::make_unique<Pod>(edits...)); };
  auto directory = scratchDirectory();

  const auto& full = pod([](auto& c) { everyField(c); });
  Container everything(full, [&](auto& c) { everyField(c, directory); });
  auto created = Container::created(full, [](auto& c) { c.set_tty(true); });
  Container zero(full, shell("exit 0")), seven(full, shell("echo seven; exit 7")), killed(full);
  killed.up().stop(0);
  auto failed = Container::created(full);
  auto process = failed.pid();
  killProcess(process);
  waitUntil([&] { return kill(process, 0) != 0; }, "the end of a process");
  attempt(ofContainer<v1::StartContainerRequest>(failed.id()));
  Container lost(full);
  killProcess(parentOf(lost.up().pid()));
  EXPECT_NE(lost.ended().message(), "");
  Container paused(full), writing(full, shell("i=0; while :; do i=$((i + 1)); echo line $i; usleep 50000; done"));
  if (!options().pause.empty()) {
    EXPECT_EQ(std::system((options().pause + " " + paused.up().id()).c_str()), 0);
  }
  zero.ended();
  seven.ended();
  failed.ended();
  everything.up();

  const auto& own = pod();
  Container alone(own, ofImage("test/config:latest"), shell("trap 'exit 0' USR1; echo up; sleep 3600 & wait")),
      target(own, [&](auto& c) {
        securityOf(c)->mutable_namespace_options()->set_pid(v1::TARGET);
        securityOf(c)->mutable_namespace_options()->set_target_id(alone.id());
      });
  pod([](auto& c) {
    namespacesOf(c)->set_network(v1::NODE);
    namespacesOf(c)->set_ipc(v1::NODE);
    namespacesOf(c)->set_pid(v1::NODE);
  });
  const auto& stopped = pod();
  Container within(stopped);
  within.up();
  stopped.stop();
  pods.push_back(std::make_unique<Pod>(podConfig(), call(v1::StatusRequest()).runtime_handlers().rbegin()->name()));

  auto before = lookAt(pods);
  EXPECT_GE(before.size(), 20U);
  restart();
  expectEqual(lookAt(pods), before);

  // What runs goes on, and its end is seen.
  EXPECT_EQ(everything.text("id -u"), "1234");
  EXPECT_EQ(everything.out(), "up\n");
  created.start();
  created.stop(0);
  alone.up().stop(20);
  EXPECT_EQ(alone.status().exit_code(), 0);
  auto lines = writing.log().size();
  waitUntil([&] { return writing.log().size() > lines + 3; }, "more output");
  call(ofContainer<v1::ReopenContainerLogRequest>(writing.id()));
  EXPECT_EQ(writing.exec("exit 4").code, 4);
  writing.stop(0);
  if (!options().pause.empty()) {
    paused.stop(20);
    EXPECT_EQ(paused.status().exit_code(), 0);
  }
  // Addresses are still taken.
  std::set<std::string> addresses;
  Pod another;
  EXPECT_TRUE(addresses.insert(another.status().network().ip()).second);
  for (const auto& one : pods) {
    auto address = one->status().network().ip();
    if (!address.empty() && one->status().state() == v1::SANDBOX_READY) {
      EXPECT_TRUE(addresses.insert(address).second) << address;
    }
  }
  // Names are still taken, and free when what had them is removed.
  EXPECT_EQ(runPod(full.config()), full.id());
  EXPECT_EQ(createContainer(full, everything.config()), everything.id());

  before = lookAt(pods);
  restart();
  expectEqual(lookAt(pods), before);
}

TEST(AloneRestart, EndsWhileItIsAwayAreSeen) {
  PROMISE("1.5 restart");
  if (options().restart.empty()) GTEST_SKIP() << "no --restart command";
  Pod pod;
  // They end one after the other, some before, some during and some after the restart.
  std::vector<std::unique_ptr<Container>> containers;
  for (int number = 0; number < 10; ++number)
    containers.push_back(std::make_unique<Container>(
        pod, shell("usleep " + std::to_string(150'000 * number) + "; echo over; exit " + std::to_string(10 + number))));
  restart();
  for (int number = 0; number < 10; ++number) {
    auto status = containers[static_cast<std::size_t>(number)]->ended();
    EXPECT_EQ(status.exit_code(), 10 + number);
    EXPECT_EQ(status.reason(), "Error");
    EXPECT_GE(status.finished_at(), status.started_at());
    EXPECT_EQ(containers[static_cast<std::size_t>(number)]->out(), "over\n");
  }
}

}  // namespace userpod::conformance
