#include "tests/benchmark/bare_pull.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <curl/curl.h>
#include <fmt/core.h>
#include <isa-l/igzip_lib.h>
#include <openssl/evp.h>

#include <array>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "daemon/sys/fd.hpp"

namespace userpod::bench {
namespace {

constexpr std::size_t kBlock = 256 << 10;
constexpr std::size_t kBlocksAhead = 8;
constexpr std::size_t kDocumentLimit = 4 << 20;

struct Block {
  std::unique_ptr<char[]> data;
  std::size_t size = 0;
};

// Blocks from the thread that inflates to the one that unpacks, and back when they are used: fresh memory would cost a
// page fault for every 4 KiB of the image.
class Channel {
 public:
  Block spare() {
    std::lock_guard lock(mutex_);
    if (spares_.empty()) return {std::make_unique_for_overwrite<char[]>(kBlock), 0};
    Block block = std::move(spares_.back());
    spares_.pop_back();
    block.size = 0;
    return block;
  }
  void giveBack(Block block) {
    std::lock_guard lock(mutex_);
    if (block.data) spares_.push_back(std::move(block));
  }
  bool push(Block block) {  // false: the reader has gone
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return blocks_.size() < kBlocksAhead || closed_; });
    if (closed_) return false;
    blocks_.push_back(std::move(block));
    changed_.notify_all();
    return true;
  }
  std::optional<Block> pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !blocks_.empty() || closed_; });
    if (blocks_.empty()) return std::nullopt;
    Block block = std::move(blocks_.front());
    blocks_.pop_front();
    changed_.notify_all();
    return block;
  }
  void close() {
    std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Block> blocks_;
  std::vector<Block> spares_;
  bool closed_ = false;
};

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }
  void add(const char* data, std::size_t size) { EVP_DigestUpdate(context_.get(), data, size); }
  std::string text() {
    std::array<unsigned char, 32> bytes{};
    EVP_DigestFinal_ex(context_.get(), bytes.data(), nullptr);
    std::string result = "sha256:";
    for (unsigned char byte : bytes) result += fmt::format("{:02x}", byte);
    return result;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

// One GET; `take` gets the body in pieces and returns false to break off.
using Take = std::function<bool(const char*, std::size_t)>;
Status get(const std::string& url, const char* accept, const Take& take) {
  std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> request(curl_easy_init(), curl_easy_cleanup);
  std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(curl_slist_append(nullptr, accept),
                                                                      curl_slist_free_all);
  if (!request || !headers) return Error(Code::Internal, "curl_easy_init");
  auto write = +[](char* data, std::size_t, std::size_t size, void* target) -> std::size_t {
    return (*static_cast<const Take*>(target))(data, size) ? size : 0;
  };
  curl_easy_setopt(request.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(request.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(request.get(), CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(request.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(request.get(), CURLOPT_NOPROXY, "*");
  curl_easy_setopt(request.get(), CURLOPT_BUFFERSIZE, 512L << 10);
  curl_easy_setopt(request.get(), CURLOPT_WRITEFUNCTION, write);
  curl_easy_setopt(request.get(), CURLOPT_WRITEDATA, &take);
  auto result = curl_easy_perform(request.get());
  if (result != CURLE_OK) return Error(Code::RegistryUnreachable, "GET " + url + ": " + curl_easy_strerror(result));
  return {};
}

Result<nlohmann::json> getDocument(const std::string& url) {
  std::string text;
  USERPOD_CHECK(get(url, "Accept: application/vnd.oci.image.manifest.v1+json", [&](const char* data, std::size_t size) {
    text.append(data, size);
    return text.size() <= kDocumentLimit;
  }));
  auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return Error(Code::ImageInvalid, url + " is no JSON object");
  return json;
}

// Inflates what comes in pieces into blocks.
class Inflater {
 public:
  explicit Inflater(Channel& output) : output_(output), block_(output.spare()) {
    isal_inflate_init(&state_);
    state_.crc_flag = ISAL_GZIP;
  }
  bool add(const char* data, std::size_t size) {
    state_.next_in = reinterpret_cast<std::uint8_t*>(const_cast<char*>(data));
    state_.avail_in = static_cast<std::uint32_t>(size);
    do {
      state_.next_out = reinterpret_cast<std::uint8_t*>(block_.data.get() + block_.size);
      state_.avail_out = static_cast<std::uint32_t>(kBlock - block_.size);
      if (isal_inflate(&state_) != ISAL_DECOMP_OK) return false;
      block_.size = kBlock - state_.avail_out;
      if (block_.size == kBlock && !flush()) return false;
    } while (state_.avail_in > 0 && state_.block_state != ISAL_BLOCK_FINISH);
    return true;
  }
  // After the input: what the inflater still holds back.
  bool finish() {
    while (state_.block_state != ISAL_BLOCK_FINISH) {
      std::size_t before = block_.size;
      if (!add(nullptr, 0)) return false;
      if (block_.size == before && state_.block_state != ISAL_BLOCK_FINISH) return false;  // cut short
    }
    return flush();
  }

 private:
  bool flush() {
    bool taken = output_.push(std::move(block_));
    block_ = output_.spare();
    return taken;
  }

  Channel& output_;
  Block block_;
  inflate_state state_{};
};

Status fetch(const BareImage::Layer& layer, Channel& output) {
  Sha256 digest;
  Inflater inflater(output);
  Status done = get(layer.url, "Accept: */*", [&](const char* data, std::size_t size) {
    digest.add(data, size);
    return inflater.add(data, size);
  });
  if (done && !inflater.finish()) done = Error(Code::ImageInvalid, layer.url + " is not a whole gzip stream");
  output.close();
  if (done && digest.text() != layer.digest) done = Error(Code::DigestMismatch, layer.url + " has another digest");
  return done;
}

struct TarSource {
  Channel& input;
  Block block;
  Sha256 digest;

  bool next() {
    auto taken = input.pop();
    if (!taken) return false;
    input.giveBack(std::exchange(block, std::move(*taken)));
    digest.add(block.data.get(), block.size);
    return true;
  }
};

Status unpackEntries(archive* tar, archive* disk, const std::string& directory) {
  archive_entry* entry = nullptr;
  int status = ARCHIVE_OK;
  while ((status = archive_read_next_header(tar, &entry)) == ARCHIVE_OK) {
    archive_entry_set_pathname(entry, (directory + "/" + archive_entry_pathname(entry)).c_str());
    if (const char* link = archive_entry_hardlink(entry))
      archive_entry_set_hardlink(entry, (directory + "/" + link).c_str());
    if (archive_write_header(disk, entry) != ARCHIVE_OK) return Error(Code::StorageFailed, archive_error_string(disk));
    const void* data = nullptr;
    std::size_t size = 0;
    la_int64_t offset = 0;
    while ((status = archive_read_data_block(tar, &data, &size, &offset)) == ARCHIVE_OK)
      if (archive_write_data_block(disk, data, size, offset) < 0)
        return Error(Code::StorageFailed, archive_error_string(disk));
    if (status != ARCHIVE_EOF) break;
    if (archive_write_finish_entry(disk) != ARCHIVE_OK) return Error(Code::StorageFailed, archive_error_string(disk));
  }
  if (status != ARCHIVE_EOF) return Error(Code::ImageInvalid, archive_error_string(tar));
  return {};
}

Status unpack(const BareImage::Layer& layer, Channel& input, const std::string& directory) {
  TarSource source{input, {}, {}};
  std::unique_ptr<archive, decltype(&archive_read_free)> tar(archive_read_new(), archive_read_free);
  std::unique_ptr<archive, decltype(&archive_write_free)> disk(archive_write_disk_new(), archive_write_free);
  archive_read_support_format_tar(tar.get());
  archive_write_disk_set_options(disk.get(), ARCHIVE_EXTRACT_OWNER | ARCHIVE_EXTRACT_PERM | ARCHIVE_EXTRACT_TIME);
  auto read = +[](archive*, void* from, const void** data) -> la_ssize_t {
    auto* reader = static_cast<TarSource*>(from);
    if (!reader->next()) return 0;
    *data = reader->block.data.get();
    return static_cast<la_ssize_t>(reader->block.size);
  };
  Status done;
  if (archive_read_open(tar.get(), &source, nullptr, read, nullptr) != ARCHIVE_OK)
    done = Error(Code::ImageInvalid, archive_error_string(tar.get()));
  else
    done = unpackEntries(tar.get(), disk.get(), directory);
  while (done && source.next()) {  // padding after the end of the tar is part of the DiffID
  }
  input.close();
  if (done && source.digest.text() != layer.diffId)
    done = Error(Code::DigestMismatch, layer.url + " unpacks to another DiffID");
  return done;
}

}  // namespace

Result<BareImage> describeImage(const std::string& reference) {
  auto slash = reference.find('/');
  auto colon = reference.rfind(':');
  if (slash == std::string::npos || colon == std::string::npos || colon < slash)
    return Error(Code::InvalidArgument, reference + ": HOST:PORT/NAME:TAG is wanted");
  std::string base = "http://" + reference.substr(0, slash) + "/v2/" + reference.substr(slash + 1, colon - slash - 1);
  BareImage image;
  image.manifestUrl = base + "/manifests/" + reference.substr(colon + 1);
  USERPOD_TRY(manifest, getDocument(image.manifestUrl));
  Error invalid(Code::ImageInvalid, "the manifest or config of " + reference + " is not understood");
  auto layers = manifest.value("layers", nlohmann::json::array());
  auto configDigest = manifest.value("/config/digest"_json_pointer, std::string());
  if (layers.empty() || configDigest.empty()) return invalid;
  USERPOD_TRY(config, getDocument(base + "/blobs/" + configDigest));
  auto diffIds = config.value("/rootfs/diff_ids"_json_pointer, nlohmann::json::array());
  if (diffIds.size() != layers.size()) return invalid;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    std::string digest = layers[i].value("digest", "");
    image.layers.push_back({base + "/blobs/" + digest, digest,
                            diffIds[i].is_string() ? diffIds[i].get<std::string>() : "",
                            layers[i].value("size", std::uint64_t{0})});
  }
  return image;
}

Status fetchManifest(const BareImage& image) {
  auto document = getDocument(image.manifestUrl);
  return document ? Status() : std::move(document).error();
}

Status barePull(const BareImage& image, const std::string& directory) {
  struct Work {
    Channel channel;
    Status fetched, unpacked;
    std::thread fetcher, unpacker;
  };
  std::deque<Work> works(image.layers.size());
  for (std::size_t i = 0; i < works.size(); ++i) {
    std::string target = fmt::format("{}/{}", directory, i);
    USERPOD_CHECK(makeDirectories(target));
    Work& work = works[i];
    const auto& layer = image.layers[i];
    work.fetcher = std::thread([&work, &layer] { work.fetched = fetch(layer, work.channel); });
    work.unpacker = std::thread([&work, &layer, target] { work.unpacked = unpack(layer, work.channel, target); });
  }
  Status result;
  for (auto& work : works) {
    work.fetcher.join();
    work.unpacker.join();
    for (Status* status : {&work.unpacked, &work.fetched})
      if (!*status) result = std::move(*status);
  }
  return result;
}

}  // namespace userpod::bench
