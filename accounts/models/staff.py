"""Members of staff, who sign in by e-mail address."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils import timezone

from accounts.access import Permission
from accounts.models.columns import history


class UserManager(BaseUserManager["User"]):
    """Makes users who sign in by e-mail address."""

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        """Create a user; without a password the user cannot sign in by password."""
        user = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def get_by_natural_key(self, username: str | None) -> User:
        """Return the user who signs in as this; capital letters make no difference."""
        return self.get(email=(username or "").strip().lower())

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        """Create a user who holds every permission; for the first start of an installation."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)


class User(AbstractBaseUser, PermissionsMixin):
    """A member of staff; signs in by e-mail address."""

    email = models.EmailField(max_length=254)
    name = models.CharField(max_length=150)
    is_staff = models.BooleanField("may sign in here", default=True)
    is_active = models.BooleanField("active", default=True)
    date_joined = models.DateTimeField(default=timezone.now)

    # Not kept: a column written at each sign-in would fill the history with rows that nobody edited.
    last_login = None

    objects = UserManager()
    history = history(excluded_fields=("password",))

    EMAIL_FIELD = "email"
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = ["name"]

    class Meta:
        ordering = ("email",)
        verbose_name = "member of staff"
        verbose_name_plural = "staff"
        constraints = (
            models.UniqueConstraint(fields=["email"], name="user_email_is_unique"),
            models.CheckConstraint(condition=Q(email=Lower("email")), name="user_email_is_in_lower_case"),
        )
        permissions = tuple((permission.value, permission.label) for permission in Permission)

    def __str__(self) -> str:
        return self.name or self.email

    def get_full_name(self) -> str:
        """Return the name as Django's own pages ask for it."""
        return self.name

    def get_short_name(self) -> str:
        """Return the name as Django's own pages ask for it."""
        return self.name
