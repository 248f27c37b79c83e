// userpod-conformance: what the CRI v1 promises of pods and containers, against the runtime behind a socket.
//
//   userpod-conformance --endpoint unix:///run/user/1000/userpod/cri.sock --registry 127.0.0.1:5000 [--jobs 4]
//                       [--token-registry 127.0.0.1:5001] [--scratch DIR] [--restart COMMAND] [--pause COMMAND --resume
//                       COMMAND] [--results FILE]
//                       [--slow]
//                       [--gtest_filter=...]
//
// It runs where the runtime's processes, control groups, pod networks and host paths are seen as the runtime sees them:
// in userpod's node (userpodctl enter), as root beside a runtime of the system. Its images are those of
// tests/testbed/registry. With several jobs, tests run side by side in processes of their own, but those whose suite's
// name has "Alone" in it. What tests make is taken away; images that it pulled too, at the end.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {
namespace {

Options given;

constexpr const char* kImages[] = {"test/busybox:1", "test/user:latest", "test/user-numeric:latest",
                                   "test/config:latest"};

// One line of each test in the file of results; and the reason of what failed or was skipped.
class Results : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo&) override { reason_.clear(); }
  void OnTestPartResult(const testing::TestPartResult& part) override {
    if (!part.passed() && reason_.empty()) reason_ = part.summary();
  }
  void OnTestEnd(const testing::TestInfo& test) override {
    std::replace_if(reason_.begin(), reason_.end(), [](char c) { return c == '\n' || c == '\t'; }, ' ');
    const char* status = test.result()->Skipped() ? "SKIP" : test.result()->Passed() ? "PASS" : "FAIL";
    std::ofstream(given.results, std::ios::app) << status << '\t' << test.test_suite_name() << '.' << test.name()
                                                << '\t' << reason_.substr(0, 300) << std::endl;
  }
  std::string reason_;
};

int runHere() {
  if (!given.results.empty()) testing::UnitTest::GetInstance()->listeners().Append(new Results);
  return RUN_ALL_TESTS();
}

// This program once more, as one part of the whole; its output goes to a file.
pid_t startPart(const std::vector<std::string>& words, const std::vector<std::string>& variables,
                const std::string& output) {
  std::vector<char*> arguments, environment;
  for (const auto& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  for (char** one = environ; *one != nullptr; ++one) environment.push_back(*one);
  for (const auto& one : variables) environment.push_back(const_cast<char*>(one.c_str()));
  environment.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  auto program = std::filesystem::read_symlink("/proc/self/exe").string();
  pid_t pid = -1;
  int failed = posix_spawn(&pid, program.c_str(), &actions, nullptr, arguments.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) throw std::runtime_error("cannot start a part: " + std::string(std::strerror(failed)));
  return pid;
}

// A part that did not end by itself has not told of all its tests.
bool waitForPart(pid_t pid, const std::string& output) {
  int status = 0;
  waitpid(pid, &status, 0);
  std::cout << readFile(output) << std::flush;
  if (WIFEXITED(status) && WEXITSTATUS(status) <= 1) return WEXITSTATUS(status) == 0;
  if (!given.results.empty())
    std::ofstream(given.results, std::ios::app)
        << "FAIL\tconformance.part\tended with wait status " << status << std::endl;
  return false;
}

bool runParts(std::vector<std::string> words) {
  words.insert(words.end(), {"--jobs=1", "--scratch=" + given.scratch, "--gtest_filter=-*Alone*"});
  std::vector<pid_t> parts;
  auto output = [](std::size_t part) { return given.scratch + "/part-" + std::to_string(part); };
  for (int part = 0; part < given.jobs; ++part)
    parts.push_back(startPart(
        words, {"GTEST_TOTAL_SHARDS=" + std::to_string(given.jobs), "GTEST_SHARD_INDEX=" + std::to_string(part)},
        output(parts.size())));
  bool passed = true;
  for (std::size_t part = 0; part < parts.size(); ++part) passed = waitForPart(parts[part], output(part)) && passed;
  words.back() = "--gtest_filter=*Alone*";
  return waitForPart(startPart(words, {}, output(parts.size())), output(parts.size())) && passed;
}

std::set<std::string> imageIds() {
  std::set<std::string> ids;
  auto listed = call(v1::ListImagesRequest());
  for (const auto& image : listed.images()) ids.insert(image.id());
  return ids;
}

// Pods that a test did not take away are told of, and taken away.
bool nothingLeft(const std::set<std::string>& imagesBefore) {
  // A part may have restarted the runtime: this process's connection is to the one before.
  waitUntil([] { return attempt(v1::VersionRequest()).status.ok(); }, "an answer of the runtime");
  v1::ListPodSandboxRequest request;
  (*request.mutable_filter()->mutable_label_selector())[kLabel] = "1";
  auto left = call(request);
  for (const auto& pod : left.items()) {
    std::cout << "left: pod " << pod.id() << " " << pod.metadata().name() << std::endl;
    stopPod(pod.id());
    removePod(pod.id());
  }
  for (const auto& id : imageIds())
    if (imagesBefore.count(id) == 0)
      call(with<v1::RemoveImageRequest>([&](auto& r) { r.mutable_image()->set_image(id); }));
  return left.items().empty();
}

int runWhole(const std::vector<std::string>& words) {
  bool ownScratch = given.scratch.empty();
  if (ownScratch) {
    char path[] = "/var/tmp/userpod-conformance.XXXXXX";
    if (mkdtemp(path) == nullptr) throw std::runtime_error("cannot make a directory in /var/tmp");
    given.scratch = path;
  }
  auto before = imageIds();
  for (const auto* name : kImages) image(name);
  bool filtered = testing::GTEST_FLAG(filter) != "*";
  bool passed = given.jobs > 1 && !filtered ? runParts(words) : runHere() == 0;
  passed = nothingLeft(before) && passed;
  if (ownScratch) std::filesystem::remove_all(given.scratch);
  std::cout << (passed ? "passed" : "FAILED") << std::endl;
  return passed ? 0 : 1;
}

int run(int argc, char** argv) {
  std::vector<std::string> words(argv, argv + argc);
  testing::InitGoogleTest(&argc, argv);
  CLI::App app("Conformance to the CRI v1 of the runtime behind a socket");
  app.add_option("--endpoint", given.endpoint, "The CRI socket, unix:///...")->required();
  app.add_option("--registry", given.registry, "host:port of tests/testbed/registry")->required();
  app.add_option("--token-registry", given.tokenRegistry, "host:port of the one that asks for tokens");
  app.add_option("--scratch", given.scratch, "A directory for host paths and logs (default: one in /var/tmp)");
  app.add_option("--restart", given.restart, "A shell command that starts the runtime anew");
  app.add_option("--pause", given.pause, "A shell command that pauses the container whose id follows");
  app.add_option("--resume", given.resume, "A shell command that resumes it");
  app.add_option("--results", given.results, "Write a line for each test there");
  app.add_option("--jobs", given.jobs, "So many tests side by side")->check(CLI::Range(1, 32))->take_last();
  app.add_flag("--slow", given.slow, "Wait longer");
  app.get_option("--scratch")->take_last();
  CLI11_PARSE(app, argc, argv);
  // A part knows what the whole has prepared.
  if (std::getenv("USERPOD_CONFORMANCE_PART") != nullptr) return runHere();
  setenv("USERPOD_CONFORMANCE_PART", "1", 1);
  return runWhole(words);
}

}  // namespace

const Options& options() {
  return given;
}

}  // namespace userpod::conformance

int main(int argc, char** argv) {
  try {
    return userpod::conformance::run(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "userpod-conformance: " << e.what() << std::endl;
    return 1;
  }
}
