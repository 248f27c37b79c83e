#include "daemon/cri/image_service.hpp"

#include "daemon/cri/images.hpp"
#include "daemon/cri/lists.hpp"

namespace userpod::cri {
namespace {

// Lists one after the other are one list: so the same message serves for all, and keeps its memory.
grpc::Slice listBytes(const core::ImageList& images) {
  v1::ListImagesResponse one;
  std::string bytes;
  for (const auto& image : images) {
    one.Clear();
    fillItem(*image, "", one.add_images());
    one.AppendToString(&bytes);
  }
  return bytes;
}

void fillUsage(const storage::FilesystemUsage& usage, v1::FilesystemUsage* message) {
  message->set_timestamp(usage.timestamp);
  message->mutable_fs_id()->set_mountpoint(usage.mountpoint);
  message->mutable_used_bytes()->set_value(usage.usedBytes);
  message->mutable_inodes_used()->set_value(usage.inodesUsed);
}

}  // namespace

std::vector<std::shared_ptr<const ImageRecord>> ImageService::selectImages(const v1::ImageFilter& filter) const {
  if (filter.image().image().empty()) return *core_.snapshot()->images;
  auto image = core_.findImage(filter.image().image());
  if (!image) return {};
  return {std::move(image)};
}

grpc::Slice ImageService::listOf(const std::shared_ptr<const core::ImageList>& images) {
  std::lock_guard lock(listMutex_);
  if (listed_ != images) {
    list_ = listBytes(*images);
    listed_ = images;
  }
  return list_;
}

grpc::ServerUnaryReactor* ImageService::ListImages(Context* context, const grpc::ByteBuffer* request,
                                                   grpc::ByteBuffer* response) {
  CallName name{"ListImages"};
  v1::ListImagesRequest message;
  grpc::ByteBuffer bytes = *request;  // is emptied by being read
  if (!grpc::SerializationTraits<v1::ListImagesRequest>::Deserialize(&bytes, &message).ok())
    return answer(context, name, Error(Code::InvalidArgument, "the request is no ListImagesRequest"));
  auto slice = message.filter().image().image().empty() ? listOf(core_.snapshot()->images)
                                                        : listBytes(selectImages(message.filter()));
  *response = grpc::ByteBuffer(&slice, 1);
  return answer(context, name, checkAnswer(slice.size(), "StreamImages"));
}

grpc::ServerWriteReactor<v1::StreamImagesResponse>* ImageService::StreamImages(Context*,
                                                                               const v1::StreamImagesRequest* request) {
  using Pointer = std::shared_ptr<const ImageRecord>;
  auto* stream = new ListStream<Pointer, v1::StreamImagesResponse>(
      selectImages(request->filter()), [](const Pointer& image, v1::StreamImagesResponse* response) {
        v1::Image* item = response->add_images();
        fillItem(*image, "", item);
        return item->ByteSizeLong();
      });
  return stream->start();
}

grpc::ServerUnaryReactor* ImageService::ImageStatus(Context* context, const v1::ImageStatusRequest* request,
                                                    v1::ImageStatusResponse* response) {
  CallName name{"ImageStatus", "IMAGE", request->image().image()};
  auto reference = toReference("image", request->image());
  if (!reference) return answer(context, name, std::move(reference).error());
  // Not here is an answer without an image, not an error.
  auto image = core_.findImage(*reference);
  if (image) fillItem(*image, *reference, response->mutable_image());
  if (!image || !request->verbose()) return answer(context, name, {});
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.imageDocuments(image->id, [reply, response, image](Result<ImageRecord> documents) {
      // Removed meanwhile: not here, which is an answer without an image.
      if (!documents && documents.error().code() == Code::NoSuchImage)
        return reply->ok([&] { response->clear_image(); });
      if (!documents) return reply->fail(std::move(documents).error());
      reply->ok([&] { (*response->mutable_info())["info"] = imageInfo(*image, documents->config); });
    });
  });
}

grpc::ServerUnaryReactor* ImageService::PullImage(Context* context, const v1::PullImageRequest* request,
                                                  v1::PullImageResponse* response) {
  CallName name{"PullImage", "IMAGE", request->image().image()};
  auto reference = toReference("image", request->image());
  if (!reference) return answer(context, name, std::move(reference).error());
  auto credentials = toCredentials(request->auth());
  if (!credentials) return answer(context, name, std::move(credentials).error());
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token cancelled) {
    // The one call that ends when its client does: nobody else may want the bytes.
    images::PullRequest pull{std::move(*reference), std::move(*credentials), {}, std::move(cancelled)};
    core_.pullImage(std::move(pull), [reply, response](Result<std::string> id) {
      if (!id) return reply->fail(id.error());
      reply->ok([&] { response->set_image_ref(*id); });
    });
  });
}

grpc::ServerUnaryReactor* ImageService::RemoveImage(Context* context, const v1::RemoveImageRequest* request,
                                                    v1::RemoveImageResponse*) {
  CallName name{"RemoveImage", "IMAGE", request->image().image()};
  auto reference = toReference("image", request->image());
  if (!reference) return answer(context, name, std::move(reference).error());
  return calls_->run(std::move(name), [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.removeImage(*reference, [reply](const Status& status) {
      // Unknown is success here, whatever the core makes of it for other callers.
      if (!status && status.error().code() == Code::NoSuchImage) return reply->ok();
      reply->finish(status);
    });
  });
}

grpc::ServerUnaryReactor* ImageService::ImageFsInfo(Context*, const v1::ImageFsInfoRequest*,
                                                    v1::ImageFsInfoResponse* response) {
  return calls_->run({"ImageFsInfo"}, [&](std::shared_ptr<Reply> reply, std::stop_token) {
    core_.filesystemUsage(
        [reply, response](Result<std::pair<storage::FilesystemUsage, storage::FilesystemUsage>> usage) {
          if (!usage) return reply->fail(usage.error());
          reply->ok([&] {
            fillUsage(usage->first, response->add_image_filesystems());
            fillUsage(usage->second, response->add_container_filesystems());
          });
        });
  });
}

}  // namespace userpod::cri
